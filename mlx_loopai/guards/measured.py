"""What guards with a measured state share: batches to measure on, the cache key, the sum over layers, the file."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.data.batches import batch_of, choose_widths
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.guards.guard import Guard, Material, Penalty, State
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.models.pass_sizes import MEASURED_ROWS
from mlx_loopai.models.updated_linear import UpdatedLinear, updated_modules


class MeasuredGuard(Guard[State]):
    """A guard whose state follows from its own options, the adapter's form and general rows."""

    def made_by(self, material: Material) -> list[Any]:
        own = {name: value for name, value in material.options.own().items() if name != "strength"}
        digest = hashlib.sha256()
        for batch in material.rows:
            digest.update(batch.ids.tobytes() + batch.supervised.tobytes())
        return [own, material.adapter.model_dump(mode="json"), material.seed, digest.hexdigest()]

    def place(self, model: nn.Module, state: State) -> None:
        pass


def measuring_batches(rows: Sequence[TokenRow], batch_tokens: int) -> list[MicroBatch]:
    """`rows` by length, in batches of `MEASURED_ROWS` of them, or of fewer that pad to `batch_tokens` (0: no limit).

    A batch has one row at least, however long.
    """
    ordered = sorted(rows, key=lambda row: len(row.ids))
    widths = choose_widths([len(row.ids) for row in ordered])
    height = min(MEASURED_ROWS, max(1, batch_tokens // widths[-1])) if batch_tokens else MEASURED_ROWS
    return [batch_of(ordered[start : start + height], widths) for start in range(0, len(ordered), height)]


def over_layers(coefficients: Mapping[str, float], term: Callable[[str, UpdatedLinear], mx.array]) -> Penalty:
    """The function model -> sum_l c_l term(l) over the adapted layers l."""

    def penalty(model: nn.Module) -> mx.array:
        layers = updated_modules(model)
        return mx.stack([coefficients[name] * term(name, layer) for name, layer in layers.items()]).sum()

    return penalty


def read_parts(path: Path) -> tuple[dict[str, dict[str, mx.array]], dict[str, str]]:
    """The arrays `PART.NAME` of a guard's file by part and name (a part that the file lacks is empty), its metadata."""
    arrays, metadata = mx.load(str(path), return_metadata=True)
    parts: dict[str, dict[str, mx.array]] = defaultdict(dict)
    for key, array in arrays.items():
        part, _, name = key.partition(".")
        parts[part][name] = array
    return parts, metadata
