"""The three kinds of evaluation tasks: free answers, multiple choice by likelihood, and likelihood of texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic

from mlx_loopai.data.conversation import showing
from mlx_loopai.data.images import Picture
from mlx_loopai.data.records import Record
from mlx_loopai.data.row_identity import rows_digest
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.evaluation.choices import Choice, chance, choice_rows, choose
from mlx_loopai.evaluation.judge import ItemT, Judge
from mlx_loopai.evaluation.perplexity import nll
from mlx_loopai.generation.engine import SamplingOptions, generate_in_turn
from mlx_loopai.generation.seen_answers import SeenPrompt, seen_answers
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.progress import Advance, ignore

ANSWER_TOKENS = 48
# A model's raw results on a task, as JSON values: [text, finished] per question, indices of options, or one number.
Given = Any


@dataclass(frozen=True, kw_only=True)
class JudgedAnswer:
    """A model's answer to one question. `broken`: what is wrong with its form (`judge.Verdict`)."""

    prompt: str
    text: str
    right: bool
    broken: str | None = None
    is_korean: bool = False


@dataclass(frozen=True)
class TaskResult:
    """A model's answers to the n questions of a task, in order. chance: accuracy of the best constant guess."""

    name: str
    chance: float
    answers: tuple[JudgedAnswer, ...]

    @property
    def n(self) -> int:
        return len(self.answers)

    @cached_property
    def right(self) -> tuple[bool, ...]:
        return tuple(answer.right for answer in self.answers)

    @property
    def score(self) -> float:
        """The share of right answers, in [0, 1]."""
        return sum(self.right) / self.n


@dataclass(frozen=True, kw_only=True)
class Asked(Generic[ItemT]):
    """Questions that the model answers freely, and the judge of its answers; chance: as in `TaskResult`.

    An item has a `prompt`. The script constraint is off, since it would hide damage.
    """

    name: str
    items: tuple[ItemT, ...]
    judge: Judge[ItemT]
    chance: float
    max_tokens: int = ANSWER_TOKENS

    @staticmethod
    def of(name: str, items: Sequence[ItemT], judge: Judge[ItemT], max_tokens: int = ANSWER_TOKENS) -> Asked[ItemT]:
        """The task of these questions, with the chance level of their judge."""
        return Asked(
            name=name,
            items=tuple(items),
            judge=judge,
            chance=judge.constant_guess(items),
            max_tokens=max_tokens,
        )

    @property
    def shows_pictures(self) -> bool:
        """Whether any of its questions shows a picture."""
        return any(pictures_of(item) for item in self.items)

    def read_by_model(self, loaded: LoadedModel, encoder: ChatEncoder) -> list[Any]:
        """The prompts' tokens and the limit of an answer, as JSON values: where they are equal, answers are equal."""
        shown = [[picture.digest for picture in pictures_of(item)] for item in self.items]
        return [self.max_tokens, self.prompts(encoder), *([shown] if self.shows_pictures else [])]

    def run(self, loaded: LoadedModel, encoder: ChatEncoder, on_progress: Advance = ignore) -> Given:
        """[text, finished] of every greedy answer; `on_progress` is called with the number that have ended."""
        if self.shows_pictures:
            ids = zip(self.prompts(encoder), self.items, strict=True)
            prompts = [SeenPrompt(prompt, pictures_of(item)) for prompt, item in ids]
            seen = seen_answers(loaded, prompts, self.max_tokens, on_progress)
            return [[answer.written, answer.finished] for answer in seen]
        ((_, given),) = run_together(loaded, encoder, [self], on_progress)
        return given

    def judged(self, answers: Given) -> TaskResult:
        """The result of what `run` returned. Raises: ValueError when it is not of these questions."""
        return TaskResult(
            self.name,
            self.chance,
            tuple(
                self._judged(item, str(text), bool(finished))
                for item, (text, finished) in zip(self.items, answers, strict=True)
            ),
        )

    def _judged(self, item: Any, text: str, finished: bool) -> JudgedAnswer:
        verdict = self.judge.verdict(item, text, finished)
        return JudgedAnswer(
            prompt=item.prompt,
            text=text,
            right=verdict.right,
            broken=verdict.broken,
            is_korean=self.judge.is_korean(item),
        )

    def prompts(self, encoder: ChatEncoder) -> list[list[int]]:
        """The tokens of every question's prompt."""
        items: Sequence[Any] = self.items
        return [encoder.prompt_ids([showing(item.prompt, pictures_of(item))]) for item in items]


def run_together(
    loaded: LoadedModel, encoder: ChatEncoder, tasks: Sequence[Asked[Any]], on_progress: Advance = ignore
) -> Iterator[tuple[int, Given]]:
    """(index, what `run` gives) of each of `tasks`, which show no pictures, as soon as its last answer has ended.

    All their questions are answered in one batch, task after task, so that few answers keep a small batch running only
    once. `on_progress` is called with the number of answers, and with the name of the last one's task.
    """
    prompts: list[list[int]] = []
    owners: list[tuple[int, int]] = []
    given: list[list[Given]] = []
    for number, task in enumerate(tasks):
        own = task.prompts(encoder)
        prompts += own
        owners += [(number, place) for place in range(len(own))]
        given.append([None] * len(own))
    # Neighbours in length share little padding.
    order = sorted(range(len(prompts)), key=lambda index: (owners[index][0], len(prompts[index])))
    most_tokens = [tasks[number].max_tokens for number, _ in owners]
    missing = list(map(len, given))
    ended = generate_in_turn(loaded, prompts, SamplingOptions(temperature=0.0), order, most_tokens)
    for answered, (index, answer) in enumerate(ended, start=1):
        number, place = owners[index]
        given[number][place] = [answer.text, answer.finished]
        missing[number] -= 1
        on_progress(answered, tasks[number].name)
        if not missing[number]:
            yield number, given[number]


@dataclass(frozen=True)
class Chosen:
    """Multiple choice by likelihood."""

    name: str
    items: tuple[Choice, ...]

    def read_by_model(self, loaded: LoadedModel, encoder: ChatEncoder) -> list[Any]:
        """What the model reads, as JSON values."""
        rows = choice_rows(loaded.tokenizer, self.items)
        return [[len(item.options) for item in self.items], rows_digest(rows)]

    def run(self, loaded: LoadedModel, encoder: ChatEncoder, on_progress: Advance = ignore) -> Given:
        """The index of the option that the model prefers, for every item."""
        return choose(loaded, self.items, on_progress)

    def judged(self, picks: Given) -> TaskResult:
        """The result of what `run` returned. Raises: ValueError when it is not of these items."""
        answers = (
            JudgedAnswer(prompt=item.prompt, text=item.options[pick], right=pick == item.answer)
            for pick, item in zip(picks, self.items, strict=True)
        )
        return TaskResult(self.name, chance(self.items), tuple(answers))


@dataclass(frozen=True)
class Scored:
    """Texts or conversations whose likelihood is reported; it is never a part of the retention."""

    name: str
    items: tuple[Record, ...]

    def read_by_model(self, loaded: LoadedModel, encoder: ChatEncoder) -> list[Any]:
        """What the model reads, as JSON values."""
        return [rows_digest([encoder.encode(record) for record in self.items])]

    def run(self, loaded: LoadedModel, encoder: ChatEncoder, on_progress: Advance = ignore) -> Given:
        """Nats per supervised token."""
        rows = [encoder.encode(record) for record in self.items]
        return nll(loaded.model, rows, on_progress=on_progress).nll_per_token

    def judged(self, nll_per_token: Given) -> float:
        """What `run` returned. Raises: TypeError, ValueError when it is not a number."""
        return float(nll_per_token)


Task = Asked[Any] | Chosen | Scored


def shows_pictures(task: Task) -> bool:
    """Whether any of its questions shows a picture."""
    return isinstance(task, Asked) and task.shows_pictures


def pictures_of(item: Any) -> tuple[Picture, ...]:
    """The pictures that a question shows; () for a kind of question without any."""
    found: tuple[Picture, ...] = getattr(item, "pictures", ())
    return found
