"""One answer to write: its prompt, how its tokens are chosen, and what may stand in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_loopai.config import SamplingOptions
from mlx_loopai.generation.constraint import Constraint, Tally
from mlx_loopai.generation.grammar import Grammar
from mlx_loopai.generation.repetition import RepetitionGuard
from mlx_loopai.models.prompt_cache import Prefix
from mlx_loopai.models.vision.pictures import Pictures
from mlx_loopai.text.filter import Policy


@dataclass(frozen=True, eq=False)
class Request:
    """One answer to write. It draws from the stream (options.seed, row), whatever else is written at the same time.

    prefix: the beginning of `prompt` that need not be read again. stops: strings before which the answer ends.
    adapter: whether the model's adapter, if it has one, answers; otherwise its base does.
    pictures: the features at the prompt's picture tokens; None for a prompt of text.
    likeliest: how many of the likeliest tokens to report at each place, with the chosen one; None: no probabilities.
    goes_on: the prompt ends with the beginning of the answer, so that a space may follow it.
    policy: of the filter for its text; None: the text as the model wrote it. guard: against repetition, with the
        strength in `options`; None: no guard.
    """

    prompt: Sequence[int]
    options: SamplingOptions
    constraint: Constraint | None = None
    tally: Tally | None = None
    row: int = 0
    grammar: Grammar | None = None
    prefix: Prefix | None = None
    stops: tuple[str, ...] = ()
    policy: Policy | None = None
    guard: RepetitionGuard | None = None
    adapter: bool = True
    pictures: Pictures | None = None
    goes_on: bool = False
    likeliest: int | None = None
