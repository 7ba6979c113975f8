"""The settings of a model folder's vision tower, and of the pixels that it reads. Pure: no mlx."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr
from mlx_loopai.models.architectures.vision_language import family_of

ACTIVATIONS = ("silu", "gelu", "quick_gelu", "gelu_pytorch_tanh")
# What transformers' configuration classes assume.
_TOWER_THETA = 10_000.0
_SECTIONS = {"qwen2_vl": (16, 24, 24), "qwen2_5_vl": (16, 24, 24), "qwen3_vl": (24, 20, 20)}
_IMAGE_TOKENS = {"image_token_id": 151655, "vision_start_token_id": 151652, "vision_end_token_id": 151653}
_CHANNELS = 3
# An RGB image whose sides differ more is refused, as transformers refuses it.
MOST_ASPECT = 200
# Pixels of a picture after it was made smaller: 1280 tokens of 28 x 28, the limit of transformers' processor where a
# checkpoint sets none. Released checkpoints allow 16 times more, which is 16,384 tokens a picture.
DEFAULT_MOST_PIXELS = 28 * 28 * 1280
_MAX_SIZE = 1 << 20


@dataclass(frozen=True)
class PatchSettings:
    """How an RGB picture becomes patches.

    patch: side of a patch in pixels. frames: how often a picture is repeated in time. merge: patches a side that become
    one feature. mean, deviation: of the colours. min_pixels, max_pixels: limits of a picture's area.
    """

    patch: int
    frames: int
    merge: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    min_pixels: int
    max_pixels: int

    @property
    def side(self) -> int:
        """Pixels of a feature's side: both sides of a picture are multiples of it."""
        return self.patch * self.merge

    @property
    def patch_values(self) -> int:
        """Numbers of one patch."""
        return _CHANNELS * self.frames * self.patch**2


@dataclass(frozen=True)
class SquareSettings:
    """A picture as a square of `side` pixels, of which an encoder makes `rows` x `rows` features."""

    side: int
    rows: int


class Seen(Protocol):
    """What is common to all vision parts: the pixels that they read, and the tokens that stand for a picture.

    before, after: tokens around a picture's. sections: as in `VisionSettings`; empty where a token has one position.
    """

    @property
    def patches(self) -> PatchSettings | SquareSettings: ...
    @property
    def image_token(self) -> int: ...
    @property
    def before(self) -> tuple[int, ...]: ...
    @property
    def after(self) -> tuple[int, ...]: ...
    @property
    def sections(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class TowerSettings:
    """Sizes of a vision tower. `family`: qwen2_vl, qwen2_5_vl or qwen3_vl.

    width: of its states; inner: of its MLP; out: of its features, the text model's width. window: patches a side of
    a window of attention, in features, 0 for none; full: the blocks that see the whole picture then. positions: the
    side of the square table of learnt positions, 0 for none. deepstack: the blocks whose states are also given to
    the text model.
    """

    family: str
    depth: int
    width: int
    heads: int
    inner: int
    out: int
    activation: str
    theta: float
    window: int = 0
    full: tuple[int, ...] = ()
    positions: int = 0
    deepstack: tuple[int, ...] = ()


@dataclass(frozen=True)
class VisionSettings:
    """A folder's vision part: its tower, its patches, the tokens around a picture, and the rotary sections.

    sections: how many of a head's frequencies turn with the time, the row and the column of a feature; interleaved:
    they alternate instead of following each other.
    """

    tower: TowerSettings
    patches: PatchSettings
    image_token: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    sections: tuple[int, ...]
    interleaved: bool

    @property
    def axes(self) -> tuple[int, ...]:
        """For each of a head's frequencies: 0 where the time turns it, 1 the row, 2 the column."""
        count = sum(self.sections)
        if not self.interleaved:
            return tuple(axis for axis, length in enumerate(self.sections) for _ in range(length))
        found = [0] * count
        for axis in (1, 2):
            for place in range(axis, self.sections[axis] * 3, 3):
                found[place] = axis
        return tuple(found)


def vision_settings(config: Mapping[str, Any], folder: Path) -> VisionSettings | None:
    """What `config`, the config.json of `folder`, says of its vision tower; None for a model that reads no pictures.

    Raises: InputError for sizes that are absurd or do not fit, and where nothing says how pixels are scaled.
    """
    family = family_of(config.get("model_type"))
    if family is None or not isinstance(config.get("vision_config"), Mapping):
        return None
    where = str(folder / "config.json")
    text = config["text_config"] if isinstance(config.get("text_config"), Mapping) else config
    vision = dict(config["vision_config"])
    sizes = _Sizes(vision, f"{where}: vision_config")
    tower = _tower(family, sizes, int(text["num_hidden_layers"]))
    patches = _patch_settings(_processor(folder), sizes, folder)
    sections = _sections(family, text, where)
    sizes.check()
    if tower.out != text["hidden_size"]:
        raise InputError(
            tr(
                "{where}: the tower's features are {out} wide, the text model is {hidden_size}",
                where=where,
                out=tower.out,
                hidden_size=text["hidden_size"],
            )
        )
    tokens = {name: _token(config, name, usual, where) for name, usual in _IMAGE_TOKENS.items()}
    return VisionSettings(
        tower=tower,
        patches=patches,
        image_token=tokens["image_token_id"],
        before=(tokens["vision_start_token_id"],),
        after=(tokens["vision_end_token_id"],),
        sections=sections,
        interleaved=family == "qwen3_vl",
    )


class _Sizes:
    """Reads whole numbers of a configuration and collects what is wrong with them, to report it all at once."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self._where = values, where
        self._problems: list[str] = []

    def whole(self, name: str, usual: int | None = None) -> int:
        value = self.values.get(name, usual)
        if isinstance(value, list | tuple) and value and len(set(map(str, value))) == 1:
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MAX_SIZE:
            self._problems.append(
                tr("{name} is {value} where a positive whole number is needed", name=name, value=repr(value)[:40])
            )
            return 1
        return value

    def places(self, name: str, usual: tuple[int, ...], below: int) -> tuple[int, ...]:
        value = self.values.get(name, usual)
        good = isinstance(value, list | tuple) and all(
            isinstance(one, int) and not isinstance(one, bool) and 0 <= one < below for one in value
        )
        if not good:
            self._problems.append(
                tr(
                    "{name} is {value} where numbers of blocks below {below} are needed",
                    name=name,
                    value=repr(value)[:60],
                    below=below,
                )
            )
            return ()
        return tuple(value)

    def problem(self, text: str) -> None:
        self._problems.append(text)

    def check(self) -> None:
        """Raises: InputError with every problem."""
        if self._problems:
            raise InputError(f"{self._where}: {all_problems(self._problems)}")


def _tower(family: str, sizes: _Sizes, text_blocks: int) -> TowerSettings:
    """The tower's sizes, with what transformers' configuration class of the family assumes where one is left out."""
    width = sizes.whole("embed_dim", 1280) if family == "qwen2_vl" else sizes.whole("hidden_size")
    depth, heads = sizes.whole("depth", 27 if family == "qwen3_vl" else 32), sizes.whole("num_heads", 16)
    usual_act = {"qwen2_vl": "quick_gelu", "qwen2_5_vl": "silu", "qwen3_vl": "gelu_pytorch_tanh"}[family]
    activation = sizes.values.get("hidden_act", usual_act)
    if activation not in ACTIVATIONS:
        sizes.problem(f"hidden_act is {repr(activation)[:40]}, {', '.join(ACTIVATIONS)} are computed")
    if width % heads or (width // heads) % 4:
        sizes.problem(f"a width of {width} in {heads} heads gives no heads of a multiple of 4")
    common: dict[str, Any] = {"family": family, "depth": depth, "width": width, "heads": heads}
    common |= {"activation": str(activation), "theta": _theta(sizes)}
    if family == "qwen2_vl":
        inner = int(width * float(sizes.values.get("mlp_ratio", 4)))
        return TowerSettings(**common, inner=inner, out=sizes.whole("hidden_size"))
    common |= {"inner": sizes.whole("intermediate_size"), "out": sizes.whole("out_hidden_size")}
    if family == "qwen2_5_vl":
        window = (
            sizes.whole("window_size", 112) // sizes.whole("spatial_merge_size", 2) // sizes.whole("patch_size", 14)
        )
        if not window:
            sizes.problem("window_size is smaller than a feature")
        full = sizes.places("fullatt_block_indexes", (7, 15, 23, 31), max(depth, 32))
        return TowerSettings(**common, window=window, full=full)
    table = sizes.whole("num_position_embeddings", 2304)
    if math.isqrt(table) ** 2 != table:
        sizes.problem(f"num_position_embeddings {table} is not the square of a whole number")
    deepstack = sizes.places("deepstack_visual_indexes", (8, 16, 24), depth)
    if len(deepstack) >= text_blocks or list(deepstack) != sorted(set(deepstack)):
        sizes.problem(f"deepstack_visual_indexes {list(deepstack)} do not fit {text_blocks} blocks of the text model")
    return TowerSettings(**common, positions=math.isqrt(table), deepstack=deepstack)


def _theta(sizes: _Sizes) -> float:
    nested = sizes.values.get("rope_parameters") or {}
    value = nested.get("rope_theta", _TOWER_THETA) if isinstance(nested, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        sizes.problem(f"rope_parameters is {repr(nested)[:60]} where a positive rope_theta is needed")
        return _TOWER_THETA
    return float(value)


def _sections(family: str, text: Mapping[str, Any], where: str) -> tuple[int, ...]:
    nested = text.get("rope_scaling") or text.get("rope_parameters") or {}
    found = nested.get("mrope_section", _SECTIONS[family])
    heads = int(text["num_attention_heads"])
    head_size = int(text.get("head_dim") or (128 if family == "qwen3_vl" else int(text["hidden_size"]) // heads))
    whole = isinstance(found, list | tuple) and all(isinstance(one, int) and one >= 0 for one in found)
    if not whole or len(found) != 3 or sum(found) != head_size // 2:
        raise InputError(
            tr(
                "{where}: mrope_section {found} does not divide the {frequencies} frequencies of a head",
                where=where,
                found=repr(found)[:40],
                frequencies=head_size // 2,
            )
        )
    kind = nested.get("rope_type") or nested.get("type") or "default"
    if kind not in ("default", "mrope"):
        raise InputError(
            tr(
                "{where}: rope type {kind!r} together with pictures is not computed here",
                where=where,
                kind=str(kind)[:40],
            )
        )
    if family == "qwen3_vl" and 3 * max(found[1:]) > sum(found) + 2:
        raise InputError(tr("{where}: mrope_section {found} cannot alternate", where=where, found=list(found)))
    return tuple(found)


def _token(config: Mapping[str, Any], name: str, usual: int, where: str) -> int:
    value = config.get(name, usual)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(
            tr(
                "{where}: {name} is {value} where a token's number is needed",
                where=where,
                name=name,
                value=repr(value)[:40],
            )
        )
    return value


def _processor(folder: Path) -> Mapping[str, Any]:
    """What the folder says of its pictures' pixels. Raises: InputError when it says nothing."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(
                tr("{path}: not valid JSON ({error}); download the model again", path=path, error=error)
            ) from None
        inner = found.get("image_processor", found) if isinstance(found, Mapping) else None
        if isinstance(inner, Mapping) and "image_mean" in inner:
            return inner
    raise InputError(
        tr(
            "{folder}: neither preprocessor_config.json nor processor_config.json says how pixels are scaled; "
            "download the model again with that file",
            folder=folder,
        )
    )


def _patch_settings(processor: Mapping[str, Any], tower: _Sizes, folder: Path) -> PatchSettings:
    """The patches that `processor` makes. Raises: InputError where the tower reads others."""
    where = f"{folder}: the picture processor"
    sizes = _Sizes(processor, where)
    limits = processor.get("size") if isinstance(processor.get("size"), Mapping) else {}
    assert isinstance(limits, Mapping)
    edges = _Sizes(
        {
            "min_pixels": processor.get("min_pixels") or limits.get("shortest_edge") or 56 * 56,
            "max_pixels": processor.get("max_pixels") or limits.get("longest_edge") or DEFAULT_MOST_PIXELS,
        },
        where,
    )
    wanted = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    found = {name: sizes.whole(name, usual) for name, usual in wanted.items()}
    theirs = {
        "patch_size": tower.whole("patch_size", 14),
        "temporal_patch_size": tower.whole("temporal_patch_size", 2),
        "merge_size": tower.whole("spatial_merge_size", 2),
    }
    for name, value in found.items():
        if value != theirs[name]:
            sizes.problem(f"{name} is {value} where the tower reads {theirs[name]}")
    if tower.whole("in_channels", _CHANNELS) != _CHANNELS:
        sizes.problem("the tower does not read three colours")
    for name, usual in (("do_rescale", True), ("do_normalize", True), ("do_resize", True)):
        if processor.get(name, usual) is not usual:
            sizes.problem(f"{name} is {processor[name]}, which is not computed here")
    if not math.isclose(processor.get("rescale_factor", 1 / 255), 1 / 255) or processor.get("resample", 3) != 3:
        sizes.problem("rescale_factor is not 1/255, or resample is not 3 (bicubic)")
    colours = {name: _colours(processor.get(name), sizes, name) for name in ("image_mean", "image_std")}
    sizes.check()
    limits_found = _pixel_limits(edges)
    return PatchSettings(
        patch=found["patch_size"],
        frames=found["temporal_patch_size"],
        merge=found["merge_size"],
        mean=colours["image_mean"],
        deviation=colours["image_std"],
        min_pixels=limits_found[0],
        max_pixels=limits_found[1],
    )


def _pixel_limits(edges: _Sizes) -> tuple[int, int]:
    found = tuple(edges.values[name] for name in ("min_pixels", "max_pixels"))
    if any(isinstance(one, bool) or not isinstance(one, int) or one < 1 for one in found) or found[0] > found[1]:
        edges.problem(f"min_pixels and max_pixels are {found[0]!r} and {found[1]!r}, which is not a range")
        edges.check()
    return found[0], found[1]


def _colours(value: Any, sizes: _Sizes, name: str) -> tuple[float, ...]:
    good = (
        isinstance(value, list | tuple)
        and len(value) == _CHANNELS
        and all(isinstance(one, int | float) for one in value)
    )
    if not good or (name == "image_std" and not all(value)):
        sizes.problem(f"{name} is {repr(value)[:60]} where three numbers are needed")
        return (1.0,) * _CHANNELS
    return tuple(float(one) for one in value)
