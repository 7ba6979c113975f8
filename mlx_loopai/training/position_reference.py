"""What tlpo compares with: the candidates' log-probabilities before the first step, and how a run has changed them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import mlx.nn as nn
import numpy as np

from mlx_loopai.data.batches import batches_by_length, with_candidates
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.evaluation.next_tokens import candidate_log_probabilities
from mlx_loopai.guards.base_states import with_base_states
from mlx_loopai.language import tr
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.models.modes import evaluating
from mlx_loopai.models.pass_sizes import SCORED_TOKENS
from mlx_loopai.progress import Advance, ignore
from mlx_loopai.runs.listener import Listener
from mlx_loopai.training.judgement import JudgedReading
from mlx_loopai.training.position_loss import Candidates
from mlx_loopai.training.preference import Floats


def with_candidate_reference(
    loaded: LoadedModel, rows: Sequence[TokenRow], start: str, listener: Listener
) -> list[TokenRow]:
    """`rows`, in which candidates have their log-probability under the model before the run's first step.

    start: as in `with_reference`. One pass over each position, whose result is not kept for other runs.
    """
    positions = [row for row in rows if row.candidates is not None]
    listener.stage(tr("the base at positions"), len(positions))
    with contextlib.nullcontext() if start else adapter_disabled(loaded.model):
        likely = iter(_log_probabilities(loaded.model, positions, listener.advance))
    return [row if row.candidates is None else _referred(row, next(likely)) for row in rows]


def with_position_states(
    model: nn.Module, rows: Sequence[TokenRow], folder: Path, listener: Listener
) -> list[TokenRow]:
    """`rows`, in which positions have the base's state there, so that no step computes it for their KL.

    folder: where the states lie meanwhile, as in `with_base_states`.
    """
    positions = [row for row in rows if row.candidates is not None]
    if not positions:
        return list(rows)
    listener.stage(tr("the base's states at positions"), len(positions))
    with adapter_disabled(model):
        known = iter(with_base_states(model, positions, folder, listener.advance))
    return [row if row.candidates is None else next(known) for row in rows]


def position_reading(model: nn.Module, rows: Sequence[TokenRow]) -> JudgedReading:
    """The reading of the positions in `rows`, whose candidates hold their reference, under `model`."""
    positions = [row for row in rows if row.candidates is not None]
    likely = _log_probabilities(model, positions)
    told = [_compared(row, own) for row, own in zip(positions, likely, strict=True)]
    odds = np.concatenate([one.odds_gained for one in told])
    better = np.concatenate([one.better_gained for one in told])
    return JudgedReading(
        pair_accuracy=float((odds > 0).mean()),
        margin=float(odds.mean()),
        chosen_logprob_change=float(better.mean()),
        positions=len(positions),
    )


def _log_probabilities(model: nn.Module, positions: Sequence[TokenRow], on_progress: Advance = ignore) -> list[Floats]:
    """[K] nats of the candidates of each position."""
    found: dict[int, Floats] = {}
    with evaluating(model):
        for group, batch in batches_by_length(positions, SCORED_TOKENS):
            likely = candidate_log_probabilities(model, with_candidates(batch, [positions[at] for at in group]))
            found |= zip(group, likely, strict=True)
            on_progress(len(found))
    return [found[at][: len(row.candidates)] for at, row in enumerate(positions) if row.candidates is not None]


def _referred(row: TokenRow, likely: Floats) -> TokenRow:
    assert row.candidates is not None
    candidates = row.candidates.copy()
    candidates["reference"] = likely
    return replace(row, candidates=candidates)


def _compared(row: TokenRow, likely: Floats) -> Candidates:
    assert row.candidates is not None
    own = row.candidates[None]
    return Candidates(likely[None], own["reference"], own["score"], np.ones(own.shape, np.bool_))
