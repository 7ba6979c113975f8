"""The type of a judge of free answers, the broken forms that are never right, and the chance level.

Likelihood does not show the failure that this project cures (a model that answers every question in JSON), so answers
are judged as a reader would judge them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from mlx_loopai.text.markup import Html
from mlx_loopai.text.measures import is_looping, json_shaped

ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and what is wrong with its form.

    broken: such as `json` or `loop`; None for a good form. A well-formed wrong answer is neither right nor broken. A
    broken answer is never right, whatever value it holds.
    """

    right: bool
    broken: str | None


@dataclass(frozen=True)
class Judge(Generic[ItemT]):
    """How answers to one sort of question are judged.

    verdict(item, text, finished): finished: whether the model ended its answer itself. holds(item, text): whether
    the right value is in `text`, whatever its form. guesses(items): answers that a model could give to every question.
    is_korean(item): whether the answer counts for the purity of Korean.
    """

    verdict: Callable[[ItemT, str, bool], Verdict]
    holds: Callable[[ItemT, str], bool]
    guesses: Callable[[Sequence[ItemT]], set[str]]
    is_korean: Callable[[ItemT], bool]

    def constant_guess(self, items: Sequence[ItemT]) -> float:
        """The accuracy of the best answer that is the same for every item: the chance level, in [0, 1]."""

        def right(guess: str) -> int:
            # The value first: that check is much cheaper, and few guesses pass it.
            return sum(self.holds(item, guess) and self.verdict(item, guess, True).right for item in items)

        return max(map(right, self.guesses(items))) / len(items)


def malformed(text: str, json_asked: bool = False) -> str | None:
    """`empty`, `loop`, `json` (unless JSON was asked for) or `html` when a stripped answer is that, else None."""
    if not text:
        return "empty"
    if is_looping(text):
        return "loop"
    if json_shaped(text) and not json_asked:
        return "json"
    return "html" if has_html(text) else None


def has_html(text: str) -> bool:
    removed: Counter[str] = Counter()
    stage = Html(removed)
    stage.feed(text)
    stage.close()
    return removed["html"] > 0
