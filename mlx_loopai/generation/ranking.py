"""Choosing among several answers to one prompt by what can be counted in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlx_loopai.generation.constraint import Constraint, Tally
from mlx_loopai.generation.engine import Generation, SamplingOptions, generate_batch
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.text.measures import is_looping, purity, rep_n

_REPEAT_GRAM = 8


@dataclass(frozen=True, order=True)
class Rank:
    """What an answer is ranked by, the weightiest first; more is better."""

    does_not_loop: bool
    purity: float  # rounded: a hundredth is no difference
    finished: bool
    variety: float  # 1 - repeated 8-grams of characters, rounded
    length: int  # characters


def rank(text: str, finished: bool) -> Rank:
    """The rank of one answer; an empty one loses to any other."""
    return Rank(
        bool(text.strip()) and not is_looping(text),
        round(purity(text), 2),
        finished,
        round(1 - rep_n(text, _REPEAT_GRAM), 2),
        len(text),
    )


def generate_best(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    options: SamplingOptions,
    best_of: int,
    on_progress: Callable[[int, int], None] | None = None,
    constraint: Constraint | None = None,
    tally: Tally | None = None,
) -> list[Generation]:
    """The best of `best_of` answers to each prompt, by `rank`. `on_progress` counts every one of them."""
    drafts = generate_batch(
        loaded,
        [ids for ids in prompts for _ in range(best_of)],
        options,
        on_progress,
        constraint=constraint,
        tally=tally,
    )
    groups = [drafts[start : start + best_of] for start in range(0, len(drafts), best_of)]
    return [max(group, key=lambda draft: rank(draft.text, draft.finished)) for group in groups]
