"""Answers to many prompts: the best of several drafts each, judged, and written again where they fail."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mlx_loopai.generation.batch import Batch
from mlx_loopai.generation.engine import BATCH_ROWS, Generation, Piece, check_prompts
from mlx_loopai.generation.ranking import rank
from mlx_loopai.generation.request import Request
from mlx_loopai.models.load import LoadedModel
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
            return f"it declines ({declined})"
        if not text.strip():
            return "it is empty"
        cleaned = clean(text, Policy(quoted=quoted))
        if cleaned.looping:
            return "it repeats itself"
        share = cleaned.removed_share
        return f"the filter would remove {share:.0%} of it" if share > self.max_removed else ""


@dataclass(frozen=True)
class Answer:
    """The answer that was kept. `seed` wrote it, at the `attempts`-th attempt; `problem` is why it fails, or ""."""

    generation: Generation
    seed: int
    attempts: int = 1
    problem: str = ""


@dataclass(eq=False)
class _Draft:
    place: int
    number: int
    n_prompt: int
    text: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def take(self, piece: Piece) -> None:
        self.text.append(piece.text)
        if piece.token is not None:
            self.tokens.append(piece.token)

    def whole(self, finished: bool) -> Generation:
        return Generation("".join(self.text), tuple(self.tokens), finished, self.n_prompt)


def unfinished_form(request: Request, written: Generation) -> str:
    """Why an answer does not have the form that was asked for, or ""."""
    cut = request.grammar is not None and not written.finished
    return f"its form is not complete after {request.options.max_tokens} tokens (`max_tokens`)" if cut else ""


def write_answers(
    loaded: LoadedModel,
    requests: Sequence[Request],
    best_of: int = 1,
    standard: Standard | None = None,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[tuple[int, Answer]]:
    """The answers to `requests` as they end, each with its place among them.

    With `best_of`, the best by `rank` of drafts from the streams row x best_of and following; their prompt is read
    once. Raises: InputError for empty prompts.
    """
    check_prompts([request.prompt for request in requests])
    with Batch(loaded, batch_rows) as batch:
        yield from _Desk(loaded, requests, best_of, standard, batch, batch_rows).answers()


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
        self._ended: dict[int, dict[int, Generation]] = {}

    def answers(self) -> Iterator[tuple[int, Answer]]:
        # Neighbours in length share little padding.
        waiting = deque(sorted(range(len(self._requests)), key=lambda place: len(self._requests[place].prompt)))
        while waiting or len(self._batch):
            while waiting and len(self._batch) < self._room:
                self._start(waiting.popleft())
            for found in self._batch.step():
                draft = self._drafts[found.key]
                draft.take(found.piece)
                if not found.last:
                    continue
                del self._drafts[found.key]
                self._ended[draft.place][draft.number] = draft.whole(found.piece.finished)
                if len(self._ended[draft.place]) == self._best_of:
                    yield from self._judged(draft.place)

    def _start(self, place: int) -> None:
        request = self._requests[place]
        if self._best_of > 1 and len(request.prompt) > 1:
            prefix = compute_prefix(self._loaded.model, request.prompt[:-1], request.prefix)
            request = dataclasses.replace(request, prefix=prefix)
        options = dataclasses.replace(request.options, seed=request.options.seed + self._attempts[place])
        self._attempts[place] += 1
        self._ended[place] = {}
        for number in range(self._best_of):
            row = request.row * self._best_of + number
            key = self._batch.add(dataclasses.replace(request, options=options, row=row))
            self._drafts[key] = _Draft(place, number, len(request.prompt))

    def _judged(self, place: int) -> Iterator[tuple[int, Answer]]:
        ended = self._ended.pop(place)
        best = max((ended[number] for number in sorted(ended)), key=lambda one: rank(one.text, one.finished))
        problem = unfinished_form(self._requests[place], best)
        if not problem and self._standard:
            problem = self._standard.problem(best.text, self._quoted(place))
        options = self._requests[place].options
        # A greedy answer would come out the same again.
        retries = self._standard.retries if self._standard and options.temperature else 0
        if problem and self._attempts[place] <= retries:
            self._start(place)
            return
        yield place, Answer(best, options.seed + self._attempts[place] - 1, self._attempts[place], problem)

    def _quoted(self, place: int) -> frozenset[str]:
        prompt = self._loaded.tokenizer.decode(list(self._requests[place].prompt))
        return quoted_words(str(prompt))
