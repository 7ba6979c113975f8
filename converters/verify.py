"""Verifies that an output is the same model: every tensor is read again and compared, then both models are run."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converters.output import sha256_of
from converters.readers import open_checkpoint
from converters.rounding import Rounding
from converters.tensors import ROUNDING, Checkpoint, TensorEntry, to_float32
from converters.vision_tower import VisionTower, Written, read_tower
from converters.writers import Progress
from mlx_loopai.errors import LoopaiError
from mlx_loopai.language import tr
from mlx_loopai.models.encoder import ENCODERS

# Tokens on which encoders are compared: enough for attention to matter, few enough for a slow machine.
ENCODER_TOKENS = 12


@dataclass(frozen=True)
class Difference:
    """`max_abs`: largest difference of two weights. `max_rel`: largest, over the tensors, of a tensor's largest
    difference divided by its largest weight.
    """

    max_abs: float
    max_rel: float

    def __or__(self, other: Difference) -> Difference:
        return Difference(max(self.max_abs, other.max_abs), max(self.max_rel, other.max_rel))


@dataclass(frozen=True)
class Verification:
    """How far an output is from its source: over all weights, and by group (`self_attn.q_proj`, `lm_head`, ...).

    `logits_max_abs`: largest difference of two logits (of an encoder's last hidden states) when both sets of weights
    run in float32 on the same tokens. `readings`: the same between the output and other readings of the source's
    configuration (`config.json`, and `transformers`, `llama.cpp` where they are installed). `unread`: the source's
    tensors that nothing read.
    """

    max_abs: float
    max_rel: float
    logits_max_abs: float
    groups: dict[str, Difference]
    readings: dict[str, float]
    unread: tuple[str, ...]


def _group(name: str) -> str:
    """`model.layers.3.self_attn.q_proj.bias` -> `self_attn.q_proj`."""
    return re.sub(r"^(model\.|gpt_neox\.)?(layers\.\d+\.)?", "", name).rpartition(".")[0]


RoundingOf = Callable[[TensorEntry], Rounding | None]
"""What the output's quantisation does to the rows of a tensor; None where it stays dense."""


def _compare_tensor(
    source: TensorEntry, output: TensorEntry, on_progress: Progress, rounding: Rounding | None = None
) -> Difference:
    """Largest difference, and the same relative to the largest weight.

    A quantised output must be what its `rounding` makes of the source's rows, and each weight within the bound that
    follows from the form's definition: the one finds damage, the other a quantiser that is wrong.

    Raises:
        LoopaiError: a difference exceeds what rounding to the output's type, or its quantisation, explains.
    """
    relative, absolute = ROUNDING[output.dtype] if output.dtype != source.dtype else (0.0, 0.0)
    largest_difference = largest_weight = 0.0
    for start, stop in source.spans():
        wanted = to_float32(source.read_rows(start, stop), source.dtype)
        stored = output.read_rows(start, stop)
        found = to_float32(stored, output.dtype)
        difference, size = np.abs(found - wanted), np.abs(wanted)
        explained = relative * size + np.float32(absolute)
        # A NaN difference must fail, so the question is whether all are within the bound.
        if rounding is None:
            explained_all = (difference <= explained).all()
        else:
            own = 0 if rounding.apply is None else np.abs(found - rounding.apply(wanted))
            explained_all = np.all(own <= explained) and (difference <= rounding.bound(wanted)).all()
        if not explained_all:
            raise LoopaiError(
                tr(
                    "{origin}: differs from {other} by {most:.3g}, more than rounding to {dtype} explains; the "
                    "output was not kept, check the disk and convert again",
                    origin=output.origin,
                    other=source.origin,
                    most=float(difference.max()),
                    dtype=output.dtype,
                )
            )
        largest_difference = max(largest_difference, float(difference.max(initial=0.0)))
        largest_weight = max(largest_weight, float(size.max(initial=0.0)))
        on_progress(stored.nbytes)
    return Difference(largest_difference, largest_difference / largest_weight if largest_weight else 0.0)


def compare_weights(
    source: Checkpoint,
    output: Checkpoint,
    on_progress: Progress,
    rounding_of: RoundingOf = lambda entry: None,
) -> dict[str, Difference]:
    """The largest differences by group of tensors. `rounding_of` says how each matrix is quantised.

    Raises:
        LoopaiError: a tensor is missing or surplus, or differs by more than rounding explains.
    """
    written = {entry.name: entry for entry in output.entries}
    names = [entry.name for entry in source.entries]
    if set(names) != set(written):
        raise LoopaiError(
            tr(
                "{source}: holds other tensors than {other}; convert again",
                source=output.source,
                other=source.source,
            )
        )
    groups: dict[str, Difference] = {}
    for entry in source.entries:
        found = _compare_tensor(entry, written[entry.name], on_progress, rounding_of(entry))
        groups[_group(entry.name)] = groups.get(_group(entry.name), found) | found
    return groups


def _compare_states(source: Checkpoint, output: Checkpoint) -> float:
    """Largest difference of two encoders' last hidden states on the same tokens. Raises: LoopaiError."""
    from converters.encoder import states

    tokens = np.linspace(0, source.config["vocab_size"] - 1, ENCODER_TOKENS).astype(np.int32)[None]
    wanted, found = states(source, tokens), states(output, tokens)
    if not (np.isfinite(found).all() and np.isfinite(wanted).all()):
        raise LoopaiError(
            tr(
                "{source}: the model gives states that are not finite; the source checkpoint is damaged",
                source=output.source,
            )
        )
    return float(np.abs(found - wanted).max())


def _compare_towers(source: VisionTower, output: Checkpoint, on_progress: Progress) -> dict[str, Difference]:
    """The largest differences by group of tensors. Raises: LoopaiError for one that rounding does not explain."""
    found = read_tower(output)
    written = {} if found is None else {entry.name: entry for entry in found.entries}
    if written.keys() != {entry.name for entry in source.entries}:
        raise LoopaiError(
            tr("{source}: its vision tower holds other tensors than the source's; convert again", source=output.source)
        )
    groups: dict[str, Difference] = {}
    for entry in source.entries:
        group = f"visual.{re.sub(r'^blocks[.][0-9]+[.]', '', entry.name).rpartition('.')[0]}"
        difference = _compare_tensor(entry, written[entry.name], on_progress)
        groups[group] = groups.get(group, difference) | difference
    return groups


def verify(
    written: Written,
    folder: Path,
    on_progress: Progress,
    rounding_of: RoundingOf = lambda entry: None,
) -> Verification:
    """Read the output again, compare each tensor with its source, and compare the logits (see `readings`).

    `written`: what the output was made of. `rounding_of` says how the output quantises each matrix.

    Raises:
        LoopaiError: a difference that rounding does not explain, or logits that are not finite.
    """
    from converters.readings import Readings, compare_readings

    source, tower = written.text, written.tower
    for path in written.added:
        if sha256_of(folder / path.parent.name / path.name) != sha256_of(path):
            raise LoopaiError(
                tr(
                    "{file}: differs from {path}; convert again",
                    file=folder / path.parent.name / path.name,
                    path=path,
                )
            )
    output = open_checkpoint(folder)
    groups = compare_weights(source, output, on_progress, rounding_of)
    if tower is not None:
        groups |= _compare_towers(tower, output, on_progress)
    max_abs = max(difference.max_abs for difference in groups.values())
    if source.config["model_type"] in ENCODERS:
        found = Readings(_compare_states(source, output), {})
    else:
        found = compare_readings(source, output, same_weights=max_abs == 0)
    return Verification(
        max_abs=max_abs,
        max_rel=max(difference.max_rel for difference in groups.values()),
        logits_max_abs=found.source_max_abs,
        groups=groups,
        readings=found.others,
        unread=(
            *source.unread,
            *(entry.name for entry in source.others if tower is None or entry.name not in tower.names),
        ),
    )
