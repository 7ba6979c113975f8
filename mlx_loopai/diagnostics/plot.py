"""Draws what the other modules of this room measure: PNG or SVG by the file's ending, with Korean labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlx_loopai.diagnostics.attention import Attention
from mlx_loopai.diagnostics.gradients import Flow
from mlx_loopai.diagnostics.hidden import Hidden
from mlx_loopai.diagnostics.lora_weights import Update
from mlx_loopai.errors import InputError, install_command
from mlx_loopai.files import whole_file
from mlx_loopai.language import tr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLOCK = re.compile(r"\blayers\.(\d+)\.(?:\w+\.)*?(\w+)$")
_CLASSES = {
    "hangul": "한글",
    "latin": "로마자",
    "han": "한자",
    "kana": "가나",
    "mixed": "여러 문자",
    "no letters": "글자 아님",
    "part of a character": "글자의 일부",
}
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
    """The first font with Hangul that this machine has, or None: then labels are English.

    Raises: InputError without matplotlib; every drawing function asks for the font first.
    """
    try:
        from matplotlib import font_manager
    except ImportError:
        raise InputError(
            tr(
                "pictures need matplotlib; {install}, or leave them out (`no_pictures`)",
                install=install_command("plots"),
            )
        ) from None
    known = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in _KOREAN_FONTS if name in known), None)


def draw_attention(found: Attention, out: Path) -> None:
    """One map per token class that occurs: preference of every head (rows: blocks); then entropy and distance."""
    maps = {_class_label(name): found.mass[:, :, place] for place, name in enumerate(found.classes)}
    # A class without any token in the text is 1 everywhere, and is left out.
    maps = {name: np.log2(np.maximum(mass, 2.0**-8)) for name, mass in maps.items() if (mass != 1).any()}
    preferences = len(maps)
    far = max((float(np.abs(values).max()) for values in maps.values()), default=0.0) or 1.0  # one scale for all
    maps |= {_label("엔트로피 (1: 고르게)", "entropy (1: even)"): found.entropy}
    maps |= {_label("거리 (토큰)", "distance (tokens)"): found.distance}
    figure, axes = _figure(len(maps))
    for place, (axis, (name, values)) in enumerate(zip(axes, maps.items(), strict=True)):
        scale = {"cmap": "RdBu_r", "vmin": -far, "vmax": far} if place < preferences else {"cmap": "viridis"}
        shown = axis.imshow(values, aspect="auto", **scale)
        axis.set(title=name, xlabel=_label("헤드", "head"), ylabel=_label("층", "block"))
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.get_major_locator().set_params(integer=True)
        figure.colorbar(shown, ax=axis, label=_label("선호 (log2)", "preference (log2)") if place < preferences else "")
    _save(figure, out)


def draw_hidden(found: Hidden, out: Path) -> None:
    """Similarity of the two languages by layer, before and after, and how far fine-tuning changed each layer."""
    figure, (cosine, cka, drift) = _figure(3)
    before, after = _label("전", "before"), _label("후", "after")
    for axis, name, pair in (
        (cosine, _label("한국어–영어 코사인", "Korean–English cosine"), (found.base_cosine, found.cosine)),
        (cka, _label("한국어–영어 CKA", "Korean–English CKA"), (found.base_cka, found.cka)),
    ):
        # The second is drawn over the first, which shows below where they differ.
        for values, label, style in zip(pair, (before, after), ("o-", "x--"), strict=True):
            axis.plot(values, style, markersize=4, label=label)
        axis.set(title=name, ylim=(min(0.0, *map(float, pair[0])), 1.05))
    for values, label in ((found.drift_cosine, "1 - cosine"), (found.drift_cka, "1 - CKA")):
        drift.plot(np.maximum(1 - values, 0), "o-", markersize=4, label=label)
    drift.set(title=_label("학습이 움직인 정도 (0: 그대로)", "how far training moved it (0: unmoved)"))
    drift.set_ylim(bottom=0)
    for axis in (cosine, cka, drift):
        axis.set_xlabel(_label("층", "layer"))
        axis.legend()
    _save(figure, out)


def draw_updates(found: Mapping[str, Update], out: Path) -> None:
    """Norm and effective rank of every matrix (rows) in every block (columns), and all spectra."""
    figure, (norms, ranks, spectra) = _figure(3)
    names = list(found)
    outliers = [name for name in names if found[name].outlier]
    title = _label("갱신의 크기 (×: 이상치)", "norm of the update (×: outlier)")
    _matrix_map(figure, norms, names, [found[name].norm for name in names], title, outliers)
    _matrix_map(
        figure, ranks, names, [found[name].effective_rank for name in names], _label("유효 랭크", "effective rank")
    )
    for update in found.values():
        spectra.semilogy(np.maximum(update.singular_values, 1e-12), color="tab:blue", alpha=0.3)
    spectra.set(title=_label("특잇값", "singular values"), xlabel=_label("순서", "order"))
    _save(figure, out)


def draw_flow(found: Flow, out: Path) -> None:
    """Median gradient norm of every matrix (rows) in every block (columns), and the norms batch by batch."""
    figure, (by_matrix, by_batch) = _figure(2)
    logarithms = np.log10(np.maximum(np.nan_to_num(found.norms, nan=np.inf, posinf=1e12), 1e-12))
    far = [*found.vanishing, *found.exploding]
    title = _label("기울기 크기 (log10, ×: 소실·폭발)", "gradient norm (log10, ×: far from the rest)")
    _matrix_map(figure, by_matrix, found.modules, np.median(logarithms, axis=0), title, far)
    batches = np.arange(1, len(logarithms) + 1)
    by_batch.fill_between(batches, logarithms.min(axis=1), logarithms.max(axis=1), alpha=0.25, linewidth=0)
    by_batch.plot(batches, np.median(logarithms, axis=1), "o-", markersize=4)
    title = _label("배치별 중앙값과 범위 (log10)", "median and range by batch (log10)")
    by_batch.set(title=title, xlabel=_label("배치", "batch"))
    _save(figure, out)


def _matrix_map(
    figure: Figure,
    axis: Any,
    names: Sequence[str],
    values: Sequence[float] | npt.NDArray[Any],
    title: str,
    crossed: Sequence[str] = (),
) -> None:
    """`values` of modules as a map: one row per kind of matrix, one column per block; empty where a block has none."""
    places = {name: _place(name) for name in names}
    kinds = sorted({kind for kind, _ in places.values()})
    grid = np.full((len(kinds), 1 + max((block for _, block in places.values()), default=0)), np.nan)
    for name, value in zip(names, values, strict=True):
        kind, block = places[name]
        grid[kinds.index(kind), block] = value
    shown = axis.imshow(grid, aspect="auto", cmap="viridis")
    for name in crossed:
        kind, block = places[name]
        axis.plot(block, kinds.index(kind), "x", color="red")
    axis.set_yticks(range(len(kinds)), kinds)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(title=title, xlabel=_label("층", "block"))
    figure.colorbar(shown, ax=axis)


def _place(module: str) -> tuple[str, int]:
    """(kind of matrix, block) of a module such as model.layers.3.mlp.up_proj."""
    found = _BLOCK.search(module)
    return (found[2], int(found[1])) if found else (module, 0)


def _class_label(name: str) -> str:
    return _label(_CLASSES.get(name, name), name)


def save_arrays(out: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """The drawn arrays as an npz file, whole or not at all."""
    with whole_file(out) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


def _label(korean: str, english: str) -> str:
    return korean if korean_font() else english


def _figure(count: int) -> tuple[Figure, Sequence[Any]]:
    """Made without pyplot, whose figures live until they are closed."""
    font = korean_font()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["axes.unicode_minus"] = False
    if font:
        mpl.rcParams["font.family"] = [font, "DejaVu Sans"]
    columns = min(3, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(4.5 * columns, 3.6 * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)[:count]


def _save(figure: Figure, out: Path) -> None:
    with whole_file(out) as temporary:
        figure.savefig(temporary, dpi=120)
