"""Answers many prompts: takes the best of several drafts for each, checks it, and writes it again where it fails."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlx_loopai.generation.answer_stream import Text, Writing
from mlx_loopai.generation.batch import Batch
from mlx_loopai.generation.engine import check_prompts
from mlx_loopai.generation.ranking import rank
from mlx_loopai.generation.request import Request
from mlx_loopai.language import tr
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.models.lora import adapter_answering
from mlx_loopai.models.pass_sizes import ANSWERED_ROWS
from mlx_loopai.models.prompt_cache import compute_prefix
from mlx_loopai.text.filter import Policy, clean
from mlx_loopai.text.refusal import refusal
from mlx_loopai.text.words import quoted_words


@dataclass(frozen=True)
class Standard:
    """What an answer must meet: no refusal, no loop, and at most this share of it removed by the filter, in [0, 1].

    retries: how often it is written again, each time with the next seed.
    """

    max_removed: float = 0.1
    retries: int = 3

    def problem(self, text: str, quoted: frozenset[str] = frozenset()) -> str:
        """Why an answer does not meet the standard, or "". `quoted`: the prompt's words, see `filter.Policy`."""
        declined = refusal(text)
        if declined:
            return tr("it declines ({declined})", declined=declined)
        if not text.strip():
            return tr("it is empty")
        cleaned = clean(text, Policy(quoted=quoted))
        if cleaned.looping:
            return tr("it repeats itself")
        share = cleaned.removed_share
        return tr("the filter would remove {share:.0%} of it", share=share) if share > self.max_removed else ""


@dataclass(frozen=True)
class Answer:
    """The text that was kept, written at the `attempts`-th attempt; `problem` is why it fails, or ""."""

    text: Text
    attempts: int = 1
    problem: str = ""


@dataclass(frozen=True, eq=False)
class _Draft:
    place: int
    number: int
    writing: Writing


def unfinished_form(request: Request, text: Text) -> str:
    """Why an answer does not have the form that was asked for, or ""."""
    cut = request.grammar is not None and not text.finished
    return (
        tr("its form is not complete after {max_tokens} tokens (`max_tokens`)", max_tokens=request.options.max_tokens)
        if cut
        else ""
    )


def write_answers(
    loaded: LoadedModel,
    requests: Sequence[Request],
    best_of: int = 1,
    standard: Standard | None = None,
    batch_rows: int = ANSWERED_ROWS,
) -> Iterator[tuple[int, Answer]]:
    """The answers to `requests` in the order in which they end, each with the index of its request.

    With `best_of` N, the best of N drafts by `rank`; row r draws from the streams r N to r N + N - 1, and its prompt is
    read once. Raises: InputError for empty prompts.
    """
    check_prompts([request.prompt for request in requests])
    for on in (True, False):  # the rows of a batch share their weights
        places = [place for place, request in enumerate(requests) if request.adapter == on]
        if places:
            chosen = [requests[place] for place in places]
            with adapter_answering(loaded.model, on), Batch(loaded, batch_rows) as batch:
                for place, answer in _Desk(loaded, chosen, best_of, standard, batch, batch_rows).answers():
                    yield places[place], answer


class _Desk:
    """Hands requests to a batch and judges what comes back."""

    def __init__(
        self,
        loaded: LoadedModel,
        requests: Sequence[Request],
        best_of: int,
        standard: Standard | None,
        batch: Batch,
        batch_rows: int,
    ) -> None:
        self._loaded, self._requests, self._best_of, self._standard = loaded, requests, best_of, standard
        self._batch, self._room = batch, 2 * batch_rows
        self._attempts = [0] * len(requests)
        self._drafts: dict[int, _Draft] = {}
        self._ended: dict[int, dict[int, Text]] = {}

    def answers(self) -> Iterator[tuple[int, Answer]]:
        # Neighbours in length share little padding.
        waiting = deque(sorted(range(len(self._requests)), key=lambda place: len(self._requests[place].prompt)))
        while waiting or len(self._batch):
            while waiting and len(self._batch) < self._room:
                self._start(waiting.popleft())
            for found in self._batch.step():
                draft = self._drafts.get(found.key)
                if draft is None:
                    continue  # a stop string ended it in this very step
                draft.writing.take(found.piece)
                if not (found.last or draft.writing.stopped):
                    continue
                self._batch.remove(found.key)
                del self._drafts[found.key]
                draft.writing.end()
                self._ended[draft.place][draft.number] = draft.writing.text()
                if len(self._ended[draft.place]) == self._best_of:
                    yield from self._judged(draft.place)

    def _start(self, place: int) -> None:
        request = self._requests[place]
        # With pictures a batch reads each prompt with them.
        if self._best_of > 1 and len(request.prompt) > 1 and request.pictures is None:
            prefix = compute_prefix(self._loaded.model, request.prompt[:-1], request.prefix)
            request = dataclasses.replace(request, prefix=prefix)
        options = request.options.model_copy(update={"seed": request.options.seed + self._attempts[place]})
        self._attempts[place] += 1
        self._ended[place] = {}
        for number in range(self._best_of):
            row = request.row * self._best_of + number
            draft = dataclasses.replace(request, options=options, row=row)
            self._drafts[self._batch.add(draft)] = _Draft(place, number, Writing(draft))

    def _judged(self, place: int) -> Iterator[tuple[int, Answer]]:
        ended = self._ended.pop(place)
        best = max((ended[number] for number in sorted(ended)), key=lambda one: rank(one.written, one.finished))
        problem = unfinished_form(self._requests[place], best)
        if not problem and self._standard:
            problem = self._standard.problem(best.written, self._quoted(place))
        # A greedy answer would come out the same again.
        retries = self._standard.retries if self._standard and self._requests[place].options.temperature else 0
        if problem and self._attempts[place] <= retries:
            self._start(place)
            return
        yield place, Answer(best, self._attempts[place], problem)

    def _quoted(self, place: int) -> frozenset[str]:
        prompt = self._loaded.tokenizer.decode(list(self._requests[place].prompt))
        return quoted_words(str(prompt))
