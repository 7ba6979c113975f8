"""Makes preference pairs from the model's own answers: several drafts to each prompt are ranked by measures of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from mlx_loopai.config import SamplingOptions
from mlx_loopai.data.pairs import MadePairs, Pair
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.evaluation.perplexity import nll
from mlx_loopai.generation.engine import REPLACEMENT, Generation, generate_batch
from mlx_loopai.generation.prompts import Prompt
from mlx_loopai.generation.ranking import rank
from mlx_loopai.generation.session import Session
from mlx_loopai.progress import Advance, ignore
from mlx_loopai.text.style import genre_fit, genre_named

# (prompt, an answer, another one) -> whether the first is the better one; None: neither is.
Prefers = Callable[[str, str, str], bool | None]
# Nats per token. An answer whose mean log-probability is lower than another's by more than this is derailed text, even
# where its letters are clean.
_DERAILED = 0.5


@dataclass(frozen=True)
class Drafts:
    """How many answers to each prompt, and how they are drawn.

    length: fewest and most characters of a good one. gap: the least difference between the answers of a pair in a
    measure that is a share, such as purity. Smaller differences are chance, from which a model learns nothing.
    """

    best_of: int
    sampling: SamplingOptions
    length: tuple[int, int]
    gap: float


@dataclass(frozen=True, order=True)
class Merit:
    """Measures of a draft, the most important first; more is better. Within its range, length does not count.

    is_whole: every byte is part of a character. genre_fit: the share of its genre words that belong to the genre that
    the prompt asks for; 0 where it asks for none.
    """

    does_not_loop: bool
    is_whole: bool
    purity: float
    in_range: bool
    finished: bool
    genre_fit: float
    variety: float

    @staticmethod
    def of(text: str, finished: bool, length: tuple[int, int], genre: str | None = None) -> Merit:
        found = rank(text, finished)
        return Merit(
            does_not_loop=found.does_not_loop,
            is_whole=REPLACEMENT not in text,
            purity=found.purity,
            in_range=length[0] <= len(text.strip()) <= length[1],
            finished=found.finished,
            genre_fit=genre_fit(text, genre) if genre else 0.0,
            variety=found.variety,
        )

    @property
    def is_good(self) -> bool:
        """Whether it may be the better answer of a pair: it ends, has a good length, is whole, and does not loop."""
        return self.does_not_loop and self.is_whole and self.in_range and self.finished

    def beats(self, other: Merit, gap: float) -> bool:
        """Whether it is better in the most important measure in which the two differ by at least `gap`."""
        for own, its in zip(astuple(self), astuple(other), strict=True):
            if abs(own - its) >= (1 if isinstance(own, bool) else gap):
                return bool(own > its)
        return False


@dataclass(frozen=True)
class _Draft:
    """likely: mean log-probability of its tokens to the model that wrote it, nats."""

    text: str
    merit: Merit
    likely: float

    def is_example(self, others: Sequence[_Draft]) -> bool:
        """Whether it may be the better one of a pair: good, and not derailed compared with any of `others`."""
        return self.merit.is_good and all(self.likely >= other.likely - _DERAILED for other in others)


def ranked_pairs(
    session: Session,
    prompts: Sequence[Prompt],
    drafts: Drafts,
    prefers: Prefers | None = None,
    on_progress: Advance = ignore,
) -> MadePairs:
    """Pair every prompt's best draft with its worst, the second best with the second worst, and so on to the middle.

    Only pairs whose better answer is good and clearly better are kept. Drafts are written without constraint. prefers:
    a judge that decides for each pair which answer is better, in place of the measures.

    Raises: InputError for a prompt that the chat template refuses.
    """
    ids = [session.prompt_ids(prompt) for prompt in prompts for _ in range(drafts.best_of)]
    written = generate_batch(session.loaded, ids, drafts.sampling, on_progress)
    likely = _likely(session, ids, written)
    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    for number, prompt in enumerate(prompts):
        own = slice(number * drafts.best_of, (number + 1) * drafts.best_of)
        ranked = _ranked(prompt, written[own], likely[own], drafts.length)
        good = [draft for draft in ranked if draft.merit.is_good]
        found = [
            Pair(prompt.answered(better.text), prompt.answered(worse.text))
            for better, worse in _decided(prompt, ranked, drafts.gap, prefers)
            if better.is_example([worse, *good])
        ]
        pairs += found
        if not found:
            dropped[_why_none(ranked)] += 1
    return MadePairs(tuple(pairs), dict(dropped))


def _likely(session: Session, ids: Sequence[Sequence[int]], written: Sequence[Generation]) -> list[float]:
    """The mean log-probability of every answer's tokens to the model that wrote it, nats; 0 for an empty one."""
    rows = [
        TokenRow(
            np.array([*prompt, *answer.tokens], np.int32),
            np.arange(len(prompt) + len(answer.tokens)) >= len(prompt),
            origin="",
            category="domain",
        )
        for prompt, answer in zip(ids, written, strict=True)
        if answer.tokens
    ]
    found = nll(session.loaded.model, rows) if rows else None
    means = iter([] if found is None else (-found.nll / found.tokens).tolist())
    return [next(means) if answer.tokens else 0.0 for answer in written]


def _ranked(
    prompt: Prompt, written: Sequence[Generation], likely: Sequence[float], length: tuple[int, int]
) -> list[_Draft]:
    """The different answers to `prompt` that say something, the best first."""
    genre = genre_named(prompt.text)
    drafts = {
        text: _Draft(text, Merit.of(text, one.finished, length, genre), mean)
        for one, mean in zip(written, likely, strict=True)
        if (text := one.text.strip())
    }
    return sorted(drafts.values(), key=lambda draft: draft.merit, reverse=True)


def _decided(
    prompt: Prompt, ranked: Sequence[_Draft], gap: float, prefers: Prefers | None
) -> Iterator[tuple[_Draft, _Draft]]:
    """(the better, the worse) of the best and the worst, and so on to the middle, where there is a difference.

    A judge may reverse what the measures say.
    """
    for place in range(len(ranked) // 2):
        first, second = ranked[place], ranked[-1 - place]
        if prefers is None:
            choice = True if first.merit.beats(second.merit, gap) else None
        else:
            choice = prefers(prompt.text, first.text, second.text)
        if choice is not None:
            yield (first, second) if choice else (second, first)


def _why_none(ranked: Sequence[_Draft]) -> str:
    if not ranked:
        return "every answer is empty"
    if not any(draft.merit.is_good for draft in ranked):
        return "no answer ends, in its length and without repeating itself"
    return "no good answer is clearly better but for its length"
