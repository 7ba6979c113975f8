"""The base's log-probabilities of judged answers, to which preference losses refer, and how a run has changed them.

Those of the tokens that might follow at a position are in `position_reference`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import mlx.nn as nn
import numpy as np

from mlx_loopai.data.row_identity import rows_digest
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.evaluation.perplexity import nll
from mlx_loopai.files import checksum
from mlx_loopai.language import tr
from mlx_loopai.models.adapters import WEIGHTS_FILE, find_adapter
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.runs.artifact_cache import fetch_array, keep_array, kept_path
from mlx_loopai.runs.listener import Listener
from mlx_loopai.training.judgement import JudgedReading
from mlx_loopai.training.position_reference import position_reading, with_candidate_reference
from mlx_loopai.training.preference import Floats


def with_reference(loaded: LoadedModel, rows: Sequence[TokenRow], start: str, listener: Listener) -> list[TokenRow]:
    """`rows`, in which judged answers have their log-probability under the model before the run's first step.

    start: the adapter that the run continues, which `loaded` has already; "": the base itself, with its update off.
    The values are kept in the cache folder for other runs of the same base and start on the same rows: 8 bytes an
    answer.
    """
    if any(row.candidates is not None for row in rows):
        return with_candidate_reference(loaded, rows, start, listener)
    answers = [answer for row in rows if row.judged for answer in row.answers]
    if not answers:
        return list(rows)
    begins = [checksum(find_adapter(Path(start)) / WEIGHTS_FILE)] if start else []
    kept = kept_path("reference", loaded, [rows_digest(answers), *begins], ".npy")
    found = fetch_array(kept, (len(answers),), np.float64)
    if found is None or not np.isfinite(found).all():
        listener.stage(tr("the base on judged answers"), len(answers))
        with contextlib.nullcontext() if start else adapter_disabled(loaded.model):
            found = -nll(loaded.model, answers, on_progress=listener.advance).nll
        keep_array(found, kept)
    values = iter(found.tolist())
    return [_referred(row, next(values), next(values) if row.rejected else 0.0) if row.judged else row for row in rows]


def judged_reading(model: nn.Module, rows: Sequence[TokenRow]) -> JudgedReading:
    """The reading of judged `rows`, which hold the base's log-probabilities, under `model`."""
    if any(row.candidates is not None for row in rows):
        return position_reading(model, rows)
    pairs = [row for row in rows if row.rejected is not None]
    good, bad = ([row for row in rows if row.good is value] for value in (True, False))
    better, worse = [*pairs, *good], [*(row.rejected for row in pairs if row.rejected is not None), *bad]
    gains = [_gains(model, side) for side in (better, worse)]
    paired = gains[0][: len(pairs)] - gains[1][: len(pairs)]
    voted = gains[0][len(pairs) :, None] - gains[1][None, len(pairs) :]
    won = np.concatenate([paired, voted.flatten()])
    tokens = sum(int(row.supervised[1:].sum()) for row in better)
    return JudgedReading(
        pair_accuracy=float((won > 0).mean()) if len(won) else None,
        margin=float(won.mean()) if len(won) else None,
        chosen_logprob_change=float(gains[0].sum() / tokens) if tokens else None,
    )


def _gains(model: nn.Module, rows: Sequence[TokenRow]) -> Floats:
    return -nll(model, rows).nll - np.array([row.reference for row in rows]) if rows else np.zeros(0)


def _referred(row: TokenRow, own: float, worse: float) -> TokenRow:
    rejected = None if row.rejected is None else replace(row.rejected, reference=worse)
    return replace(row, reference=own, rejected=rejected)
