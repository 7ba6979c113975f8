"""How long the answers are that a run on judged answers learns from, and those that the model then writes.

Where chosen answers are mostly the longer ones, a model learns to write long before it learns taste.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_loopai.config import SamplingOptions
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.generation.engine import generate_batch
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.models.modes import evaluating

_PROMPTS = 8


@dataclass(frozen=True, kw_only=True)
class AnswerLengths:
    """Mean lengths in tokens; None where there is no such answer.

    chosen_tokens, rejected_tokens: of the held-out answers, a good one counting as chosen and a bad one as rejected.
    answer_tokens, base_answer_tokens: of what the model and its base write to the same prompts, both with one seed. A
    written answer ends at the latest where the longest of those held-out answers would.
    """

    chosen_tokens: float | None
    rejected_tokens: float | None
    answer_tokens: float | None
    base_answer_tokens: float | None


def answer_lengths(loaded: LoadedModel, rows: Sequence[TokenRow]) -> AnswerLengths:
    """The lengths for held-out judged `rows`; at most 8 of their prompts are answered, none that shows a picture.

    Positions in answers do not say how long an answer is, and count as no rows.
    """
    rows = [row for row in rows if row.candidates is None]
    prompts: dict[bytes, TokenRow] = {}
    for row in rows:
        if not row.pictures:
            prompts.setdefault(row.prompt.tobytes(), row)
    asked = list(prompts.values())[:_PROMPTS]
    with evaluating(loaded.model):
        now = _written(loaded, asked)
        with adapter_disabled(loaded.model):
            before = _written(loaded, asked)
    rejected = [row.rejected for row in rows if row.rejected is not None]
    return AnswerLengths(
        chosen_tokens=_mean([_tokens(row) for row in rows if row.good is not False]),
        rejected_tokens=_mean([_tokens(row) for row in [*rejected, *(row for row in rows if row.good is False)]]),
        answer_tokens=now,
        base_answer_tokens=before,
    )


def _written(loaded: LoadedModel, asked: Sequence[TokenRow]) -> float | None:
    if not asked:
        return None
    longest = max(_tokens(answer) for row in asked for answer in row.answers)
    prompts = [row.prompt.tolist() for row in asked]
    return _mean([len(one.tokens) for one in generate_batch(loaded, prompts, SamplingOptions(max_tokens=longest))])


def _tokens(row: TokenRow) -> int:
    return int(row.supervised.sum())


def _mean(lengths: Sequence[int]) -> float | None:
    return float(np.mean(lengths)) if lengths else None
