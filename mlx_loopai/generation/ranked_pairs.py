"""Pairs from the model's own answers: of several drafts to a prompt the best and the worst, by what can be counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_loopai.config import SamplingOptions
from mlx_loopai.data.pairs import Pair
from mlx_loopai.data.records import Message, Record
from mlx_loopai.generation.engine import generate_batch
from mlx_loopai.generation.prompts import Prompt
from mlx_loopai.generation.ranking import rank
from mlx_loopai.generation.session import Session
from mlx_loopai.progress import Advance, ignore


@dataclass(frozen=True)
class Drafts:
    """How many answers to each prompt are drawn, and how. length: fewest and most characters of a good one."""

    best_of: int
    sampling: SamplingOptions
    length: tuple[int, int]


@dataclass(frozen=True, order=True)
class Merit:
    """What a draft is judged by, the weightiest first; more is better. Length beyond being in range does not count."""

    does_not_loop: bool
    purity: float
    in_range: bool
    finished: bool
    variety: float

    @staticmethod
    def of(text: str, finished: bool, length: tuple[int, int]) -> Merit:
        found = rank(text, finished)
        return Merit(
            does_not_loop=found.does_not_loop,
            purity=found.purity,
            in_range=length[0] <= len(text.strip()) <= length[1],
            finished=found.finished,
            variety=found.variety,
        )

    @property
    def is_good(self) -> bool:
        """Whether an answer may be an example: it ends, keeps to its length, and does not repeat itself."""
        return self.does_not_loop and self.in_range and self.finished


@dataclass(frozen=True)
class RankedPairs:
    """`pairs`, and why other prompts gave none: reason -> how many."""

    pairs: tuple[Pair, ...]
    dropped: dict[str, int]


def ranked_pairs(
    session: Session, prompts: Sequence[Prompt], drafts: Drafts, on_progress: Advance = ignore
) -> RankedPairs:
    """A pair for every prompt of whose drafts one is good and another worse; drafts are written without constraint.

    Raises: InputError for a prompt that the chat template refuses.
    """
    ids = [session.prompt_ids(prompt) for prompt in prompts for _ in range(drafts.best_of)]
    written = generate_batch(session.loaded, ids, drafts.sampling, on_progress)
    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    for number, prompt in enumerate(prompts):
        own = written[number * drafts.best_of : (number + 1) * drafts.best_of]
        texts = [(Merit.of(one.text, one.finished, drafts.length), one.text.strip()) for one in own if one.text.strip()]
        if not texts:
            dropped["every answer is empty"] += 1
            continue
        best = max(texts, key=lambda found: found[0])
        worst = min(texts, key=lambda found: found[0])
        if not best[0].is_good:
            dropped["no answer ends, in its length and without repeating itself"] += 1
        elif best[0] == worst[0]:
            dropped["all answers are alike but for their length"] += 1
        else:
            pairs.append(Pair(_record(prompt, best[1]), _record(prompt, worst[1])))
    return RankedPairs(tuple(pairs), dict(dropped))


def _record(prompt: Prompt, answer: str) -> Record:
    messages = (*prompt.messages, Message("assistant", answer))
    return Record(messages=messages, kind="chat", category="domain", origin=prompt.origin)
