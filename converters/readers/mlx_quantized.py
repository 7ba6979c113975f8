"""The quantised matrices of an MLX folder, given back as float32 matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from converters.quantization import Scheme, dequantize_rows, scheme_in_config
from converters.tensors import TensorEntry
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

_SUFFIXES = ("weight", "scales", "biases")


def join_quantized(
    entries: Mapping[str, TensorEntry], quantization: Mapping[str, Any], where: str
) -> dict[str, TensorEntry]:
    """The entries with each `X.weight`, `X.scales` (and `X.biases`) made one float32 `X.weight`.

    Raises:
        InputError: parts that are missing or do not fit the scheme that `quantization` (of config.json) names.
    """
    joined: dict[str, TensorEntry] = {}
    modules = {name.removesuffix(".scales") for name in entries if name.endswith(".scales")}
    for name, entry in entries.items():
        module, _, kind = name.rpartition(".")
        if module not in modules or kind not in _SUFFIXES:
            joined[name] = entry
        elif kind == "weight":
            joined[name] = _joined(entries, module, scheme_in_config(quantization, module, where), where)
    return joined


def _joined(entries: Mapping[str, TensorEntry], module: str, scheme: Scheme, where: str) -> TensorEntry:
    wanted = _SUFFIXES if scheme.mode == "affine" else _SUFFIXES[:2]
    parts = [entries.get(f"{module}.{kind}") for kind in wanted]
    found = [part for part in parts if part is not None and len(part.shape) in (2, 3)]
    if len(found) != len(wanted) or found[0].dtype != "U32":
        raise InputError(
            tr(
                "{where}: {module} is quantised, but not all of {wanted} are there as matrices",
                where=where,
                module=module,
                wanted=", ".join(wanted),
            )
        )
    shape = *found[0].shape[:-1], found[0].shape[-1] * 32 // scheme.bits
    dtype = found[1].dtype
    if any(part.shape != scheme.scales_shape(shape) or part.dtype != dtype for part in found[1:]) or (
        (scheme.mode == "affine") == (dtype == "U8")
    ):
        raise InputError(
            tr(
                "{where}: the scales of {module} do not fit its weight as {scheme}",
                where=where,
                module=module,
                scheme=scheme.as_config(),
            )
        )

    def read_rows(start: int, stop: int) -> np.ndarray:
        return dequantize_rows([part.read_rows(start, stop) for part in found], dtype, scheme)

    return TensorEntry(f"{module}.weight", shape, dtype="F32", read_rows=read_rows, origin=found[0].origin)
