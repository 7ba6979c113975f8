"""Proof that an output is the same model: every tensor is read again and compared, then both models run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.readers.huggingface import read_folder
from converters.tensors import ROUNDING, Checkpoint, TensorEntry, to_float32
from converters.writers import Progress
from mlx_loopai.errors import LoopaiError

# Enough positions for attention and rotary angles to matter, few enough for a slow machine.
PROBE_TOKENS = 12


@dataclass(frozen=True)
class Verification:
    """How far an output is from its source.

    `max_abs`: largest difference of two weights. `max_rel`: largest, over the tensors, of a tensor's largest
    difference divided by its largest weight. `logits_max_abs`: largest difference of two logits when both sets of
    weights run in float32 on the same tokens.
    """

    max_abs: float
    max_rel: float
    logits_max_abs: float


def _compare_tensor(source: TensorEntry, output: TensorEntry, on_progress: Progress) -> tuple[float, float]:
    """Largest difference, and the same relative to the largest weight.

    Raises:
        LoopaiError: a difference exceeds what rounding to the output's type explains.
    """
    relative, absolute = ROUNDING[output.dtype] if output.dtype != source.dtype else (0.0, 0.0)
    largest_difference = largest_weight = 0.0
    for start, stop in source.spans():
        wanted = to_float32(source.read_rows(start, stop), source.dtype)
        stored = output.read_rows(start, stop)
        difference = np.abs(to_float32(stored, output.dtype) - wanted)
        size = np.abs(wanted)
        # A NaN difference must fail, so the question is whether all are within the bound.
        if not (difference <= relative * size + np.float32(absolute)).all():
            raise LoopaiError(
                f"{output.origin}: differs from {source.origin} by {float(difference.max()):.3g}, more than rounding to"
                f" {output.dtype} explains; the output was not kept, check the disk and convert again"
            )
        largest_difference = max(largest_difference, float(difference.max(initial=0.0)))
        largest_weight = max(largest_weight, float(size.max(initial=0.0)))
        on_progress(stored.nbytes)
    return largest_difference, largest_difference / largest_weight if largest_weight else 0.0


def compare_weights(source: Checkpoint, output: Checkpoint, on_progress: Progress) -> tuple[float, float]:
    """`max_abs` and `max_rel` of `Verification`, over all tensors.

    Raises:
        LoopaiError: a tensor is missing or surplus, or differs by more than rounding explains.
    """
    written = {entry.name: entry for entry in output.entries}
    names = [entry.name for entry in source.entries]
    if set(names) != set(written):
        raise LoopaiError(f"{output.source}: holds other tensors than {source.source}; convert again")
    pairs = [_compare_tensor(entry, written[entry.name], on_progress) for entry in source.entries]
    return max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)


def _load_model(folder: Path) -> Any:
    """The model in `folder`, in float32; called with token ids `(B, T)` it gives logits `(B, T, V)`."""
    from mlx_loopai.models.load import load_model

    return load_model(str(folder), dtype="fp32").model


def compare_logits(source: Checkpoint, folder: Path) -> float:
    """Largest difference of the logits of the model in `folder` and of the same model with the source's weights.

    Both run in float32, so that the figure shows the weights and not the arithmetic of a narrow type. Needs the
    memory of the whole model in float32.

    Raises:
        LoopaiError: a logit is not finite.
    """
    import mlx_loopai  # noqa: F401  # before mlx: on Linux it loads the fast BLAS

    # isort: split
    import mlx.core as mx
    from mlx.utils import tree_flatten

    model = _load_model(folder)
    known = set(tree_flatten(model.parameters(), destination={}))
    if known != {entry.name for entry in source.entries}:
        raise LoopaiError(f"{folder}: mlx-lm's model has other parameters than {source.source}; convert again")
    tokens = mx.array(np.linspace(0, source.config["vocab_size"] - 1, PROBE_TOKENS).astype(np.int32)[None])
    found = np.array(model(tokens))
    # One tensor at a time, so that the model holds one set of weights, never two.
    for entry in source.entries:
        weight = mx.array(to_float32(entry.load(), entry.dtype))
        model.load_weights([(entry.name, weight)], strict=False)
    wanted = np.array(model(tokens))
    if not (np.isfinite(found).all() and np.isfinite(wanted).all()):
        raise LoopaiError(f"{folder}: the model gives logits that are not finite; the source checkpoint is damaged")
    return float(np.abs(found - wanted).max())


def verify(source: Checkpoint, folder: Path, on_progress: Progress) -> Verification:
    """Read the MLX folder again, compare each tensor with its source, and run both.

    Raises:
        LoopaiError: a difference that rounding does not explain, or logits that are not finite.
    """
    max_abs, max_rel = compare_weights(source, read_folder(folder), on_progress)
    return Verification(max_abs, max_rel, compare_logits(source, folder))
