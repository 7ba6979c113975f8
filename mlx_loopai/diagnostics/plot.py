"""Draws what the other modules of this room measure: PNG or SVG by the file's ending, with Korean labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlx_loopai.diagnostics.attention import Attention
from mlx_loopai.diagnostics.gradients import Flow
from mlx_loopai.diagnostics.hidden import Hidden
from mlx_loopai.diagnostics.lora_weights import Update
from mlx_loopai.errors import InputError
from mlx_loopai.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Noto's collections name their first member only; every member has Hangul.
_KOREAN_FONTS = (
    "Apple SD Gothic Neo",
    "AppleGothic",
    "Noto Sans KR",
    "Noto Sans CJK KR",
    "Noto Sans CJK JP",
    "NanumGothic",
    "Malgun Gothic",
)


def korean_font() -> str | None:
    """The first font with Hangul that this machine has, or None: labels are then English."""
    from matplotlib import font_manager

    known = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in _KOREAN_FONTS if name in known), None)


def draw_attention(found: Attention, out: Path) -> None:
    """One map per token class: preference of every head (rows: blocks), and one each of entropy and distance."""
    maps = {name: found.mass[:, :, place] for place, name in enumerate(found.classes)}
    maps |= {_label("엔트로피", "entropy"): found.entropy, _label("거리 (토큰)", "distance (tokens)"): found.distance}
    figure, axes = _figure(len(maps))
    for axis, (name, values) in zip(axes, maps.items(), strict=True):
        shown = axis.imshow(values, aspect="auto", cmap="viridis")
        axis.set(title=name, xlabel=_label("헤드", "head"), ylabel=_label("층", "block"))
        figure.colorbar(shown, ax=axis)
    _save(figure, out)


def draw_hidden(found: Hidden, out: Path) -> None:
    """Likeness of the two languages by layer, before and after, and how far fine-tuning moved each layer."""
    figure, (cosine, cka, drift) = _figure(3)
    before, after = _label("전", "before"), _label("후", "after")
    for axis, name, pair in (
        (cosine, _label("한국어–영어 코사인", "Korean–English cosine"), (found.base_cosine, found.cosine)),
        (cka, _label("한국어–영어 CKA", "Korean–English CKA"), (found.base_cka, found.cka)),
        (drift, _label("학습 전후의 닮음", "likeness before and after"), (found.drift_cosine, found.drift_cka)),
    ):
        labels = ("cosine", "CKA") if axis is drift else (before, after)
        for values, label in zip(pair, labels, strict=True):
            axis.plot(values, marker="o", markersize=3, label=label)
        axis.set(title=name, xlabel=_label("층", "layer"), ylim=(min(0.0, *map(float, pair[0])), 1.05))
        axis.legend()
    _save(figure, out)


def draw_updates(found: Mapping[str, Update], out: Path) -> None:
    """Norm and effective rank of every module, and all spectra."""
    figure, (norms, ranks, spectra) = _figure(3)
    places = np.arange(len(found))
    colours = ["tab:red" if update.outlier else "tab:blue" for update in found.values()]
    norms.bar(places, [update.norm for update in found.values()], color=colours)
    norms.set(
        title=_label("갱신의 크기 (빨강: 이상치)", "norm of the update (red: outlier)"), xlabel=_label("모듈", "module")
    )
    ranks.bar(places, [update.effective_rank for update in found.values()])
    ranks.set(title=_label("유효 랭크", "effective rank"), xlabel=_label("모듈", "module"))
    for update in found.values():
        spectra.semilogy(np.maximum(update.singular_values, 1e-12), color="tab:blue", alpha=0.3)
    spectra.set(title=_label("특잇값", "singular values"), xlabel=_label("순서", "order"))
    _save(figure, out)


def draw_flow(found: Flow, out: Path) -> None:
    """Gradient norm of every module (rows) in every batch (columns), logarithmic."""
    figure, (axis,) = _figure(1)
    shown = axis.imshow(np.log10(np.maximum(found.norms.T, 1e-12)), aspect="auto", cmap="magma")
    axis.set(title=_label("기울기 크기 (log10)", "gradient norm (log10)"), xlabel=_label("배치", "batch"))
    axis.set_ylabel(_label("모듈", "module"))
    figure.colorbar(shown, ax=axis)
    _save(figure, out)


def save_arrays(out: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """The drawn arrays as an npz file, whole or not at all."""
    with whole_file(out) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


def _label(korean: str, english: str) -> str:
    return korean if korean_font() else english


def _figure(count: int) -> tuple[Figure, Sequence[Any]]:
    """Made without pyplot, whose figures live until they are closed."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("pictures need matplotlib; pip install 'mlx-loopai[plots]', or add --no-pictures") from None
    mpl.rcParams["axes.unicode_minus"] = False
    font = korean_font()
    if font:
        mpl.rcParams["font.family"] = [font, "DejaVu Sans"]
    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(4.5 * columns, 3.6 * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)[:count]


def _save(figure: Figure, out: Path) -> None:
    with whole_file(out) as temporary:
        figure.savefig(temporary, dpi=120)
