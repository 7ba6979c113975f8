"""Audits judged answers: counts, and differences such as length by which a model could tell better from worse."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from mlx_loopai.data.conversation import Message, Record
from mlx_loopai.data.key_columns import KeyColumns
from mlx_loopai.data.pairs import Judged, Pair
from mlx_loopai.data.positions import Position
from mlx_loopai.data.unanswered import Unanswered
from mlx_loopai.language import tr
from mlx_loopai.text.measures import purity

# Beyond this share of pairs, length alone tells which answer is the chosen one.
_LENGTH_TELLS = 0.75


@dataclass(frozen=True)
class PreferenceAudit:
    """Figures of the pairs, labelled answers and positions in answers.

    pairs, good, bad, prompts: how many pairs, labels of either kind, and distinct prompts. chosen_longer: share of
    pairs whose chosen answer has more characters. chosen_purity, rejected_purity: mean share of Korean letters in
    better and worse answers; None without any. positions: how many; best_probability: mean share of the candidates'
    probability that those with a position's highest score have, to the model that wrote the answers; None without any.
    asked: prompts without an answer; wished: how many of them wish for a length, words, a form or a genre.
    """

    pairs: int
    good: int
    bad: int
    prompts: int
    chosen_longer: float | None
    chosen_purity: float | None
    rejected_purity: float | None
    positions: int = 0
    best_probability: float | None = None
    asked: int = 0
    wished: int = 0

    @property
    def judged(self) -> bool:
        """Whether there is more than prompts without an answer."""
        return bool(self.pairs or self.good or self.bad or self.positions)

    @property
    def warnings(self) -> list[str]:
        """What to mend before training, one line each with the next action."""
        found = []
        if self.chosen_longer is not None and not 1 - _LENGTH_TELLS <= self.chosen_longer <= _LENGTH_TELLS:
            found.append(
                tr(
                    "the chosen answer is the longer one in {chosen_longer:.0%} of the pairs: length is learnt "
                    "first; add pairs of the other kind, or use the variant norm of dpo",
                    chosen_longer=self.chosen_longer,
                )
            )
        if bool(self.good) != bool(self.bad):
            found.append(
                tr(
                    "all labels are {label}, so there is nothing to compare them with; add answers of the other kind",
                    label=tr("good") if self.good else tr("bad"),
                )
            )
        return found


def audit_judged(judged: Iterable[Judged]) -> PreferenceAudit:
    """Look at every pair and labelled answer once."""
    with closing(PreferenceAuditor()) as found:
        for one in judged:
            found.add(one)
        return found.finished()


class PreferenceAuditor:
    """Counts judged answers as they come; of each only a hash of its prompt is kept, in an unnamed file."""

    def __init__(self) -> None:
        self.pairs = self._good = self._bad = self._longer = 0
        self._prompts = KeyColumns(1)
        self._better, self._worse, self._best, self._wishes = _Mean(), _Mean(), _Mean(), _Mean()

    def __len__(self) -> int:
        return self.pairs + self._good + self._bad + self._best.count + self._wishes.count

    def add(self, one: Judged) -> None:
        """Take in a pair, a labelled answer, a position, or a prompt without an answer."""
        if isinstance(one, Unanswered):
            wishes = one.wishes
            self._wishes.add(bool(wishes.length or wishes.words or wishes.format or wishes.genre))
            self._add_prompt(one.prompt.messages)
            return
        if isinstance(one, Pair):
            chosen, rejected = (said(record, len(one.prompt)) for record in (one.chosen, one.rejected))
            self.pairs += 1
            self._longer += len(chosen) > len(rejected)
            self._better.add(purity(chosen))
            self._worse.add(purity(rejected))
            self._add_prompt(one.prompt)
            return
        if isinstance(one, Position):
            self._best.add(_best_share(one))
            self._add_prompt(one.prompt)
            return
        self._good += one.good
        self._bad += not one.good
        answer = said(one.answer, len(one.answer.messages) - 1)
        (self._better if one.good else self._worse).add(purity(answer))
        self._add_prompt(one.answer.messages[:-1])

    def finished(self) -> PreferenceAudit:
        """What was found."""
        return PreferenceAudit(
            pairs=self.pairs,
            good=self._good,
            bad=self._bad,
            prompts=len(self) - sum(len(others) for _, others in self._prompts.equal(0, len(self))),
            chosen_longer=self._longer / self.pairs if self.pairs else None,
            chosen_purity=self._better.value,
            rejected_purity=self._worse.value,
            positions=self._best.count,
            best_probability=self._best.value,
            asked=self._wishes.count,
            wished=int(self._wishes.total),
        )

    def close(self) -> None:
        """Give the file back."""
        self._prompts.close()

    def _add_prompt(self, prompt: Sequence[Message]) -> None:
        self._prompts.append(np.array([[hash(prompt)]], np.int64).view(np.uint64))


@dataclass
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


def _best_share(position: Position) -> float:
    candidates = position.begun.candidates
    highest = position.begun.best.score
    likely = np.exp(np.array([one.logprob for one in candidates]) - max(one.logprob for one in candidates))
    return float(likely[[one.score == highest for one in candidates]].sum() / likely.sum())


def said(record: Record, start: int) -> str:
    """The text of a conversation from message `start` on."""
    return "\n".join(message.content for message in record.messages[start:] if message.role == "assistant")
