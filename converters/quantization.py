"""MLX's quantisation: which forms there are, which tensor gets which, and quantising and dequantising rows.

A matrix `X.weight` becomes `X.weight` (uint32, packed), `X.scales` and, for affine forms, `X.biases`; groups lie along
a row, so rows are quantised independently and a large matrix passes through in blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import mlx_loopai  # noqa: F401  # before mlx: on Linux it loads the fast BLAS

# isort: split
import mlx.core as mx
import numpy as np

from converters.names import EMBEDDING
from converters.rounding import Rounding, affine_bound, mx_bound, nvfp4_bound
from converters.tensors import DTYPE_OPTIONS, STORAGE, TensorEntry, cast, to_float32
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr

AFFINE_BITS = (2, 3, 4, 5, 6, 8)
AFFINE_GROUPS = (32, 64, 128)
_FLOAT_FORMS = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
WORDS = (*map(str, AFFINE_BITS), *_FLOAT_FORMS)


@dataclass(frozen=True)
class Scheme:
    """`bits` per weight, one scale per `group_size` weights of a row; `mode` is affine, mxfp4, mxfp8 or nvfp4."""

    bits: int
    group_size: int
    mode: str = "affine"

    def as_config(self) -> dict[str, Any]:
        """The entry of config.json's `quantization`."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}

    def packed_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the uint32 array of a matrix, or of stacked matrices."""
        return *shape[:-1], shape[-1] * self.bits // 32

    def scales_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of their scales (and of affine's biases)."""
        return *shape[:-1], shape[-1] // self.group_size

    def scales_dtype(self, dtype: str) -> str:
        """Storage of the scales of a matrix that was `dtype`: its own for affine, one byte otherwise."""
        return dtype if self.mode == "affine" else "U8"


@dataclass(frozen=True)
class Forms:
    """How a checkpoint's tensors are stored: by name a storage type or a scheme, and `dtype` where there is none.

    `dtype` is also the type of a scheme's scales; `main` is the scheme that most matrices have.
    """

    dtype: str
    by_name: Mapping[str, str | Scheme]
    main: Scheme | None = None


def scheme_of(word: str, group_size: int | None = None) -> Scheme:
    """`4`, `8bit` or `mxfp4` as a scheme; `group_size` None is the form's usual one (64 for affine).

    Raises:
        InputError: no such form, or a group size that it does not have.
    """
    name = word.removesuffix("bit")
    if name in _FLOAT_FORMS:
        bits, only = _FLOAT_FORMS[name]
        if group_size not in (None, only):
            raise InputError(
                tr(
                    "`group_size` {group_size}: {name} has groups of {only} only; leave `group_size` out",
                    group_size=group_size,
                    name=name,
                    only=only,
                )
            )
        return Scheme(bits, only, name)
    if not name.isdecimal() or int(name) not in AFFINE_BITS:
        raise InputError(tr("{word!r} is not a quantisation; there are {words}", word=word, words=", ".join(WORDS)))
    if (group_size or 64) not in AFFINE_GROUPS:
        raise InputError(
            tr(
                "`group_size` {group_size}: {name} bits come in groups of {affine_groups}",
                group_size=group_size,
                name=name,
                affine_groups=", ".join(map(str, AFFINE_GROUPS)),
            )
        )
    return Scheme(int(name), group_size or 64)


@dataclass(frozen=True)
class Rule:
    """What the tensors whose module matches `pattern` become: a storage type, or a scheme."""

    pattern: str
    form: str | Scheme

    def matches(self, module: str, tied: bool = False) -> bool:
        """Whether `module` or its last parts are `pattern`, in which `*` stands for anything.

        `tied`: the embedding is the head too, and answers to both names.
        """
        if tied and self.pattern == "lm_head" and f"{module}.weight" == EMBEDDING:
            return True
        return fnmatchcase(module, self.pattern) or fnmatchcase(module, f"*.{self.pattern}")


def parse_rules(texts: Sequence[str], group_size: int | None) -> tuple[Rule, ...]:
    """`lm_head=8bit` or `layers.0.*=bf16` as rules; where several match, the last one holds.

    Raises:
        InputError: a text that is not a rule; all of them are named at once.
    """
    rules, problems = [], []
    for text in texts:
        pattern, _, word = text.partition("=")
        try:
            if not pattern or not word:
                raise InputError(tr("{text!r} is not NAME=FORM", text=text))
            # A group size was asked for the main form; one that this form does not have falls back to its usual one.
            fitting = group_size if word.removesuffix("bit").isdecimal() and group_size in AFFINE_GROUPS else None
            form = DTYPE_OPTIONS[word] if word in DTYPE_OPTIONS else scheme_of(word, fitting)
            rules.append(Rule(pattern, form))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError(
            tr("`keep`: {problems}; write for example lm_head=8bit or layers.0.*=bf16", problems=all_problems(problems))
        )
    return tuple(rules)


def plan_forms(
    entries: Sequence[TensorEntry],
    dtype: str,
    scheme: Scheme | None,
    rules: Sequence[Rule] = (),
    tied: bool = False,
    dense: tuple[str, ...] = (),
) -> dict[str, str | Scheme]:
    """What each tensor is stored as, by name: `dtype`, `scheme` for matrices, or a rule's form.

    `dense`: ends of the names of matrices that are never quantised, such as a router's.

    A matrix whose rows the scheme's groups do not divide gets the largest smaller groups that do, and stays `dtype`
    where none does.

    `tied`: the embedding is the head too, and answers to both names.

    Raises:
        InputError: a rule that no matrix matches, or whose scheme the matrix's rows do not fit.
    """
    forms: dict[str, str | Scheme] = {}
    used: set[str] = set()
    for entry in entries:
        module = entry.name.removesuffix(".weight")
        forms[entry.name] = dtype
        if not entry.is_matrix or entry.name.endswith(dense):
            continue
        if scheme is not None:
            forms[entry.name] = _fitting(scheme, entry.row_length) or dtype
        for rule in rules:
            if rule.matches(module, tied):
                used.add(rule.pattern)
                forms[entry.name] = _checked(rule.form, entry)
    unused = sorted({rule.pattern for rule in rules} - used)
    if unused:
        raise InputError(
            tr("`keep` {unused}: no matrix of the model has that name; lm_head would be one", unused=", ".join(unused))
        )
    return forms


def is_kept(rules: Sequence[Rule], entry: TensorEntry, tied: bool = False) -> bool:
    """Whether a rule decides what `entry` is stored as."""
    return any(rule.matches(entry.name.removesuffix(".weight"), tied) for rule in rules)


def _fitting(scheme: Scheme, row_length: int) -> Scheme | None:
    groups = [group for group in sorted(AFFINE_GROUPS, reverse=True) if group <= scheme.group_size]
    if scheme.mode != "affine":
        groups = [scheme.group_size]
    return next((replace(scheme, group_size=group) for group in groups if row_length % group == 0), None)


def _checked(form: str | Scheme, entry: TensorEntry) -> str | Scheme:
    if isinstance(form, Scheme) and entry.row_length % form.group_size:
        raise InputError(
            tr(
                "`keep` {name}: rows of {row_length} values do not divide into groups of {group_size}",
                name=entry.name,
                row_length=entry.row_length,
                group_size=form.group_size,
            )
        )
    return form


def quantization_config(forms: Mapping[str, str | Scheme], main: Scheme | None) -> dict[str, Any] | None:
    """config.json's `quantization`: the main scheme, and an entry for each module that differs from it.

    mlx-lm takes a matrix without scales as dense, so `NAME=bf16` needs no entry. None: nothing is quantised.
    """
    schemes = {name.removesuffix(".weight"): form for name, form in forms.items() if isinstance(form, Scheme)}
    if not schemes:
        return None
    main = main or next(iter(schemes.values()))
    return main.as_config() | {name: form.as_config() for name, form in schemes.items() if form != main}


def scheme_in_config(config: Mapping[str, Any], module: str, where: str) -> Scheme:
    """The scheme that a quantised folder's `quantization` block gives `module`.

    Raises:
        InputError: the block is broken.
    """
    own = config.get(module)
    found = own if isinstance(own, dict) else config
    bits, group_size, mode = found.get("bits"), found.get("group_size"), found.get("mode", "affine")
    if (
        isinstance(bits, bool)
        or isinstance(group_size, bool)
        or not isinstance(bits, int)
        or not isinstance(group_size, int)
        or mode not in ("affine", *_FLOAT_FORMS)
        or (mode == "affine" and (bits not in AFFINE_BITS or group_size not in AFFINE_GROUPS))
        or (mode != "affine" and (bits, group_size) != _FLOAT_FORMS[mode])
    ):
        raise InputError(
            tr(
                "{where}: the quantization of {module} is {found!r:.200}, which MLX does not have",
                where=where,
                module=module[:120],
                found=found,
            )
        )
    return Scheme(bits, group_size, mode)


def to_mlx(block: np.ndarray, dtype: str) -> mx.array:
    """A block in its storage type as an MLX array of that type."""
    if dtype == "BF16":
        return mx.array(np.ascontiguousarray(block)).view(mx.bfloat16)
    return mx.array(block)


def to_numpy(array: mx.array) -> np.ndarray:
    """The array in its storage type; bfloat16 as raw `uint16`."""
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


def quantize_rows(block: np.ndarray, dtype: str, scheme: Scheme) -> tuple[np.ndarray, ...]:
    """Rows `(n, row_length)` stored as `dtype` -> packed weight, scales and, for affine, biases."""
    parts = mx.quantize(to_mlx(block, dtype), group_size=scheme.group_size, bits=scheme.bits, mode=scheme.mode)
    return tuple(to_numpy(part) for part in parts)


def dequantize_rows(parts: Sequence[np.ndarray], scales_dtype: str, scheme: Scheme) -> np.ndarray:
    """What `quantize_rows` gave, as float32 `(n, row_length)`: scale * q + bias without another rounding."""
    weight, *others = parts
    if scheme.mode == "affine":
        arrays = [to_mlx(part, scales_dtype).astype(mx.float32) for part in others]
        return np.array(mx.dequantize(mx.array(weight), *arrays, group_size=scheme.group_size, bits=scheme.bits))
    return np.array(
        mx.dequantize(
            mx.array(weight), mx.array(others[0]), group_size=scheme.group_size, bits=scheme.bits, mode=scheme.mode
        ).astype(mx.float32)
    )


def round_trip(block: np.ndarray, form: str | Scheme, dtype: str) -> np.ndarray:
    """Float32 rows as they read back after they were stored as `form`; `dtype` is that of the affine scales."""
    if isinstance(form, str):
        return to_float32(cast(block, "F32", form), form)
    parts = quantize_rows(cast(block, "F32", dtype), dtype, form)
    return dequantize_rows(parts, form.scales_dtype(dtype), form)


def _bound(rows: np.ndarray, form: Scheme, dtype: str) -> np.ndarray:
    if form.mode == "affine":
        return affine_bound(rows, form.bits, form.group_size, dtype)
    return nvfp4_bound(rows) if form.mode == "nvfp4" else mx_bound(rows, form.bits, form.group_size, dtype)


def rounding(form: Scheme, dtype: str) -> Rounding:
    """What `form` does to float32 rows; `dtype` is that of the affine scales."""

    def bound(rows: np.ndarray) -> np.ndarray:
        # The quantiser sees the rows in the dense dtype.
        seen = round_trip(rows, dtype, dtype)
        return np.abs(seen - rows) + _bound(seen, form, dtype)

    return Rounding(lambda rows: round_trip(rows, form, dtype), bound)


def stored_bytes(entry: TensorEntry, form: str | Scheme, dtype: str) -> int:
    """Bytes of `entry` stored as `form`; `dtype` is that of the affine scales."""
    if isinstance(form, str):
        return entry.n_bytes(form)
    per_scale = STORAGE[dtype].itemsize * 2 if form.mode == "affine" else 1
    return entry.n_elements * form.bits // 8 + entry.n_elements // form.group_size * per_scale
