"""Adds an adapter to its base's weights, and measures how much of it survives rounding to few bits.

A delta smaller than the quantisation step vanishes when W + D is quantised again: at a tenth of a step 12 % of it is
left. So the share that survives is measured for each matrix, and where it is low the matrix gets more bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import mlx_loopai  # noqa: F401  # before mlx: on Linux it loads the fast BLAS

# isort: split
import mlx.core as mx
import numpy as np

from converters.peft import hf_module
from converters.quantization import Forms, Scheme, round_trip
from converters.tensors import Checkpoint, TensorEntry, to_float32
from converters.writers import Progress
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr
from mlx_loopai.models.adapter_folder import Adapter

# The share of a matrix's delta that must survive; below it the matrix gets more bits.
FLOOR = 0.9


@dataclass(frozen=True)
class Survival:
    """What is left of one matrix's delta. `share` is <W' - W_q, D> / <D, D>: 1 when all of the update is there.

    W' is what the fused folder stores and W_q the base stored in the same form without the adapter, so that the base's
    own rounding error cancels. `cosine` is that of W' - W_q and D. `form` is what the matrix is stored as.
    """

    share: float
    cosine: float
    form: str


def fused_entries(checkpoint: Checkpoint, adapter: Adapter) -> Checkpoint:
    """The checkpoint with W + scale (A B)^T for every adapted matrix, computed block by block in float32.

    Raises:
        InputError: the adapter has modules that the checkpoint lacks, or of other sizes, or is for pictures only.
    """
    adapter.check_scope()
    deltas = {f"{hf_module(name)}.weight": pair for name, pair in adapter.factors.items()}
    shapes = {entry.name: entry.shape for entry in checkpoint.entries}
    problems = [
        f"{name} is {shapes.get(name, 'missing')} in the base, the adapter wants {(b.shape[1], a.shape[0])}"
        for name, (a, b) in deltas.items()
        if shapes.get(name) != (b.shape[1], a.shape[0])
    ]
    if problems:
        raise InputError(
            tr(
                "{source}: the adapter does not fit this base: {problems}",
                source=checkpoint.source,
                problems=all_problems(problems, 4),
            )
        )
    entries = tuple(
        _fused(entry, *deltas[entry.name], adapter.scale) if entry.name in deltas else entry
        for entry in checkpoint.entries
    )
    return replace(checkpoint, entries=entries)


def _fused(entry: TensorEntry, a: mx.array, b: mx.array, scale: float) -> TensorEntry:
    def read_rows(start: int, stop: int) -> np.ndarray:
        delta = delta_rows(a, b, scale, start, stop)
        return to_float32(entry.read_rows(start, stop), entry.dtype) + delta

    return replace(entry, dtype="F32", read_rows=read_rows)


def delta_rows(a: mx.array, b: mx.array, scale: float, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) of scale (A B)^T, float32 (stop - start, D_in)."""
    rows = b[:, start:stop].T.astype(mx.float32)
    return np.array(scale * (rows @ a.T.astype(mx.float32)))


def choose_forms(
    base: Checkpoint,
    adapter: Adapter,
    forms: Forms,
    was_quantized: Mapping[str, Scheme],
    allow_loss: bool = False,
    on_progress: Progress = lambda count: None,
) -> tuple[Forms, dict[str, Survival]]:
    """`forms` with more bits where less than `FLOOR` of the delta would survive, and the survival by module.

    A matrix that loses too much gets 8 bits, and `forms.dtype` where those lose too much as well; with `allow_loss` it
    keeps its form. `was_quantized` names the schemes of a base that is quantised already: there W_q is W itself.
    """
    chosen, found, dtype = dict(forms.by_name), dict[str, Survival](), forms.dtype
    modules = {f"{hf_module(name)}.weight": name for name in adapter.factors}
    for entry in base.entries:
        if entry.name not in modules:
            continue
        module = modules[entry.name]
        form = chosen[entry.name]
        for candidate in dict.fromkeys([form] if allow_loss else [form, _wider(form, entry), dtype]):
            survival = _survival(entry, adapter, module, candidate, dtype, entry.name in was_quantized)
            if survival.share >= FLOOR:
                break
        chosen[entry.name], found[module] = candidate, survival
        on_progress(entry.n_bytes())
    return replace(forms, by_name=chosen), found


def _wider(form: str | Scheme, entry: TensorEntry) -> str | Scheme:
    if isinstance(form, str) or form.bits == 8:
        return form
    group = form.group_size if form.mode == "affine" else 32
    return Scheme(8, group) if entry.row_length % group == 0 else form


def _survival(
    entry: TensorEntry, adapter: Adapter, module: str, form: str | Scheme, dtype: str, exact_base: bool
) -> Survival:
    a, b = adapter.factors[module]
    along = kept_squared = delta_squared = 0.0
    for start, stop in entry.spans():
        weight = to_float32(entry.read_rows(start, stop), entry.dtype)
        delta = delta_rows(a, b, adapter.scale, start, stop)
        base = weight if exact_base else round_trip(weight, form, dtype)
        kept = round_trip(weight + delta, form, dtype) - base
        along += float(np.vdot(kept, delta))
        kept_squared += float(np.vdot(kept, kept))
        delta_squared += float(np.vdot(delta, delta))
    label = form.lower() if isinstance(form, str) else f"{form.mode} {form.bits} bits, groups of {form.group_size}"
    if not delta_squared:
        return Survival(1.0, 1.0, label)
    cosine = along / (kept_squared * delta_squared) ** 0.5 if kept_squared else 0.0
    return Survival(along / delta_squared, cosine, label)


def scheme_of_folder(folder: Path) -> dict[str, Scheme]:
    """The schemes of a quantised MLX folder by tensor name; empty for a dense one. Raises: InputError."""
    from converters.json_files import read_object
    from converters.quantization import scheme_in_config
    from converters.readers.safetensors_file import read_entries

    config = read_object(folder / "config.json").get("quantization")
    if not config:
        return {}
    names = [
        entry.name for path in sorted(folder.glob("model*.safetensors")) for entry in read_entries(path, packed=True)
    ]
    modules = [name.removesuffix(".scales") for name in names if name.endswith(".scales")]
    return {f"{module}.weight": scheme_in_config(config, module, str(folder)) for module in modules}
