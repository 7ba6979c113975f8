"""Finds the mildest damping of a model's head with which it stops slipping into other scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlx_loopai.config import SamplingOptions
from mlx_loopai.data.samples.provoking import PROVOKING_PROMPTS
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.bootstrap import RESAMPLES, interval_of, item_times
from mlx_loopai.evaluation.choices import Choice
from mlx_loopai.evaluation.questions import Question
from mlx_loopai.evaluation.retention import retention
from mlx_loopai.evaluation.suite_run import SuiteResult
from mlx_loopai.evaluation.tasks import Scored, Task, TaskResult
from mlx_loopai.experiments.suite_answers import measure_suite
from mlx_loopai.files import cache_folder
from mlx_loopai.generation.engine import generate_batch
from mlx_loopai.generation.prompts import single_prompt
from mlx_loopai.generation.session import Session
from mlx_loopai.language import tr
from mlx_loopai.models.steering import steered_head
from mlx_loopai.models.token_bytes import bytes_of_tokens
from mlx_loopai.models.token_scripts import row_factors
from mlx_loopai.runs.listener import Listener, Silent
from mlx_loopai.text.hangul import nfc
from mlx_loopai.text.run_patterns import GLOSS
from mlx_loopai.text.scripts import Script, script_counts

# The mildest first. A smaller factor than the last would remove the rows almost entirely.
FACTORS = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.35, 0.2)
LEAST_REDUCTION = 0.9
_ANSWER_TOKENS = 96
_ANSWERS = 4
_MIN_PROMPTS = 4


@dataclass(frozen=True)
class Count:
    """Letters in the answers to each prompt: (those of the steered scripts, all)."""

    by_prompt: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, answers: Sequence[Sequence[str]], scripts: Sequence[str]) -> Count:
        """The letters in `answers`, one sequence of texts for each prompt."""
        return cls(tuple(_letters(texts, scripts) for texts in answers))

    @property
    def foreign(self) -> int:
        return sum(foreign for foreign, _ in self.by_prompt)

    @property
    def letters(self) -> int:
        return sum(letters for _, letters in self.by_prompt)

    @property
    def per_1000(self) -> float:
        return 1000 * self.foreign / self.letters if self.letters else 0.0

    def reduction_from(self, before: Count) -> float:
        """The share of `before`'s rate that is gone; 1.0 where there was none."""
        return 1 - self.per_1000 / before.per_1000 if before.foreign else 1.0

    def reduction_interval(self, before: Count) -> tuple[float, float]:
        """The 95 % interval of `reduction_from` for other prompts of the same kind, by bootstrap over the prompts.

        before: of the same prompts. Each resample counts one letter more than is left. Otherwise "none is left" would
        be as certain after ten letters as after a thousand. A resample without any letter before proves nothing: 0.0.
        """
        times = item_times(len(self.by_prompt), np.random.default_rng(0), RESAMPLES)
        foreign, letters = (times @ np.array(self.by_prompt)).T
        foreign_before, letters_before = (times @ np.array(before.by_prompt)).T
        left = np.ones(RESAMPLES)
        known = (foreign_before > 0) & (letters > 0)
        np.divide((foreign + 1) * letters_before, letters * foreign_before, out=left, where=known)
        return interval_of(1 - left)


def _letters(texts: Sequence[str], scripts: Sequence[str]) -> tuple[int, int]:
    foreign = letters = 0
    for text in texts:
        # Hanja in brackets after Hangul explain a Korean word and do not count.
        counts = script_counts(GLOSS.sub("", nfc(text)))
        foreign += sum(counts.get(script, 0) for script in scripts)
        letters += sum(count for name, count in counts.items() if Script(name).is_letter)
    return foreign, letters


@dataclass(frozen=True)
class Tried:
    """A factor, and the letters in the answers to the tuning half with it."""

    factor: float
    count: Count


@dataclass(frozen=True)
class Kept:
    """The steered model's results on a suite.

    mean: retention over the questions that can be answered without the steered scripts. per_task: of each task's, at
    most 1. apart: the scores (before, after) on each task's other questions, which may fall.
    """

    mean: float
    per_task: Mapping[str, float]
    apart: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Tuning:
    """The mildest factor that is enough on the tuning half (None: none is), and its effect on the other half.

    tried: every factor that was measured, the mildest first. held_out: letters in the answers to the other half,
    without and with the chosen factor. kept: None where no suite was given.
    """

    scripts: tuple[str, ...]
    base: Count
    tried: tuple[Tried, ...]
    factor: float | None = None
    held_out: tuple[Count, Count] | None = None
    kept: Kept | None = None

    @property
    def text(self) -> str | None:
        """The result as a value for the conversion's `steer` option."""
        return None if self.factor is None else ",".join(f"{name}={self.factor:g}" for name in self.scripts)


@dataclass(frozen=True)
class Search:
    """The goal of a search: damp `scripts` until `least_reduction` of their letters are gone from answers to `prompts`.

    tasks: of the suite on which retention is measured; none: not measured. answers: to each prompt. max_tokens: of each
    answer.
    """

    scripts: tuple[str, ...] = ("han", "kana")
    prompts: Sequence[str] = PROVOKING_PROMPTS
    tasks: Sequence[Task] = ()
    least_reduction: float = LEAST_REDUCTION
    answers: int = _ANSWERS
    max_tokens: int = _ANSWER_TOKENS


def tune(session: Session, search: Search, listener: Listener | None = None) -> Tuning:
    """The mildest damping of the head that is enough, by binary search over `FACTORS`.

    Every second prompt is used to choose, the others to measure. A factor is enough when the lower end of the interval
    of its reduction reaches `least_reduction`: one that reaches it on average misses it on half of all other prompts.
    Answers are sampled at the usual temperature, without constraint, guard or filter: other programs have none of them.
    Raises: InputError when the model writes none of the scripts, or too few letters of them to prove the reduction, or
    for fewer than four prompts.
    """
    if len(search.prompts) < _MIN_PROMPTS:
        raise InputError(
            tr(
                "{count} prompts cannot be halved; give at least {least}",
                count=len(search.prompts),
                least=_MIN_PROMPTS,
            )
        )
    return _Trial(session, search, listener or Silent()).run()


class _Trial:
    """One search on one model."""

    def __init__(self, session: Session, search: Search, listener: Listener) -> None:
        self._session, self._search, self._listener = session, search, listener
        tokenizer = session.loaded.tokenizer
        added = set(tokenizer.added_tokens_decoder)
        words = {index: token for token, index in tokenizer.get_vocab().items() if index not in added}
        self._tokens = bytes_of_tokens(words, str(session.loaded.path))

    def run(self) -> Tuning:
        search = self._search
        chooses, measures = search.prompts[::2], search.prompts[1::2]
        base = self._count(chooses, "the model's answers")
        if not base.foreign:
            scripts = " or ".join(search.scripts)
            raise InputError(
                tr("the model's answers hold no {scripts}; give prompts that provoke them", scripts=scripts)
            )
        none_left = Count(tuple((0, letters) for _, letters in base.by_prompt))
        if not self._is_enough(none_left, base):
            raise InputError(
                tr(
                    "the model's answers hold {foreign} letters of {scripts}, too few to prove that {reduction:.0%} of "
                    "them disappear; raise `answers`, or give prompts that provoke more",
                    foreign=base.foreign,
                    scripts=" and ".join(search.scripts),
                    reduction=search.least_reduction,
                )
            )
        tried: dict[float, Count] = {}
        factor = self._mildest(chooses, base, tried)
        mildest_first = tuple(Tried(one, tried[one]) for one in sorted(tried, reverse=True))
        found = Tuning(scripts=search.scripts, base=base, tried=mildest_first)
        if factor is None:
            return found
        before, plain = self._count(measures, "held-out answers"), self._scores("model", cache_folder())
        with self._steered(factor):
            after = self._count(measures, "held-out answers, steered")
            steered = self._scores("steered model", None)
        kept = kept_of(search, plain, steered) if plain and steered else None
        return replace(found, factor=factor, held_out=(before, after), kept=kept)

    def _mildest(self, prompts: Sequence[str], base: Count, tried: dict[float, Count]) -> float | None:
        low, high = 0, len(FACTORS)
        while low < high:
            middle = (low + high) // 2
            factor = FACTORS[middle]
            with self._steered(factor):
                tried[factor] = self._count(prompts, f"answers at {factor:g}")
            low, high = (low, middle) if self._is_enough(tried[factor], base) else (middle + 1, high)
        return FACTORS[low] if low < len(FACTORS) else None

    def _is_enough(self, count: Count, base: Count) -> bool:
        return count.reduction_interval(base)[0] >= self._search.least_reduction

    def _steered(self, factor: float) -> AbstractContextManager[None]:
        loaded = self._session.loaded
        factors = row_factors(self._tokens, dict.fromkeys(self._search.scripts, factor), loaded.shape.vocab_size)
        return steered_head(loaded.model, factors)

    def _count(self, prompts: Sequence[str], label: str) -> Count:
        """The letters in the answers to `prompts`."""
        session, search = self._session, self._search
        asked = [session.prompt_ids(single_prompt(prompt)) for prompt in prompts for _ in range(search.answers)]
        self._listener.stage(label, len(asked))
        options = SamplingOptions(max_tokens=search.max_tokens)
        texts = [one.text for one in generate_batch(session.loaded, asked, options, self._listener.advance)]
        each = range(0, len(texts), search.answers)
        return Count.of([texts[start : start + search.answers] for start in each], search.scripts)

    def _scores(self, label: str, folder: Path | None) -> SuiteResult | None:
        if not self._search.tasks:
            return None
        session = self._session
        encoder = ChatEncoder(session.loaded.tokenizer, session.system_prompt)
        return measure_suite(session.loaded, encoder, self._search.tasks, self._listener, label, folder)


def kept_of(search: Search, plain: SuiteResult, steered: SuiteResult) -> Kept:
    """What the steered model has kept. plain, steered: the results of both models on `search.tasks`."""
    asked = [task for task in search.tasks if not isinstance(task, Scored)]
    needs = [[_needs(item, search.scripts) for item in task.items] for task in asked]
    rest = retention(_answers(plain, needs, False), _answers(steered, needs, False))
    apart = zip(_answers(plain, needs, True), _answers(steered, needs, True), strict=True)
    return Kept(
        rest.mean,
        per_task={name: one.capped for name, one in rest.per_task.items()},
        apart={before.name: (before.score, after.score) for before, after in apart},
    )


def _answers(result: SuiteResult, needs: Sequence[Sequence[bool]], wanted: bool) -> list[TaskResult]:
    """The results of each task on the questions that need a steered script, or on those that do not."""
    parts = [
        replace(task, answers=tuple(answer for answer, need in zip(task.answers, own, strict=True) if need == wanted))
        for task, own in zip(result.tasks, needs, strict=True)
    ]
    return [task for task in parts if task.answers]


def _needs(item: Any, scripts: Sequence[str]) -> bool:
    """Whether a right answer to a suite's question is written in one of the scripts."""
    if isinstance(item, Question):
        return not item.scripts.isdisjoint(scripts)
    return isinstance(item, Choice) and not script_counts(item.options[item.answer]).keys().isdisjoint(scripts)
