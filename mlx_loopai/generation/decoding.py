"""From logits to tokens: what one answer does to them, and the same for many answers in a few operations."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_loopai.config import GenerationOptions
from mlx_loopai.generation.constraint import count_rows
from mlx_loopai.generation.repetition import WINDOW_TOKENS, held_back
from mlx_loopai.generation.request import Request
from mlx_loopai.generation.sampling import choose, penalty, uniforms

Step = Callable[[mx.array, mx.array], mx.array]


class Decoding:
    """How one answer gets from logits to tokens: call it to draw a token from logits (1, V) that `process` changed.

    n_tokens: the head's rows beyond them are padding. n_unseen: how many of the prompt's first tokens are missing in
    the sequences that mlx-lm passes to `process`. A token's uniform number depends on its place in the answer alone, so
    that a draft model and the model that checks it draw alike.
    """

    def __init__(self, request: Request, n_tokens: int, n_unseen: int = 0) -> None:
        self.request, self.n_tokens, self.n_prompt = request, n_tokens, len(request.prompt)
        self._numbers = uniforms(request.options, request.row, request.options.max_tokens + 1)
        self._unseen = mx.array(list(request.prompt[:n_unseen]), dtype=mx.uint32)
        self._place = 0
        constraint = request.constraint
        self.bias = None if constraint is None else constraint.bias_of(request.prompt)
        self._steps = self._own_steps()

    @property
    def shares(self) -> bool:
        """Whether `choose_together` can choose its tokens: forms, fences and penalties look at one answer alone."""
        request = self.request
        looks_back_far = request.constraint is not None and request.constraint.window is None
        return request.grammar is None and request.options.repetition_penalty == 1 and not looks_back_far

    @property
    def guard_strength(self) -> float:
        options = self.request.options
        if self.request.guard is None or not isinstance(options, GenerationOptions):
            return 0.0
        return options.repetition_guard

    def number(self, place: int) -> float:
        """The uniform number with which the token at `place` of the answer is drawn."""
        return float(self._numbers[min(place, len(self._numbers) - 1)])

    def process(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Logits (1, V) after a sequence's tokens (n), as this answer wants them."""
        if self._unseen.size:
            tokens = mx.concatenate([self._unseen, tokens])
        self._place = tokens.size - self.n_prompt
        logits = logits[:, : self.n_tokens]
        for step in self._steps:
            logits = step(tokens, logits)
        return logits

    def __call__(self, logits: mx.array) -> mx.array:
        return choose(logits, self.request.options, lambda: [self.number(self._place)])

    def _own_steps(self) -> list[Step]:
        request = self.request
        factor = request.options.repetition_penalty
        steps = [] if factor == 1 else [penalty(factor)]
        if request.guard is not None and self.guard_strength:
            steps.append(request.guard.processor(self.n_prompt, self.guard_strength))
        if request.constraint is not None:
            steps.append(request.constraint.processor(request.prompt, request.tally, self.bias))
        return steps if request.grammar is None else [request.grammar.processor(self.n_prompt, steps)]


def choose_together(
    rows: Sequence[Decoding], known: Sequence[Sequence[int]], last: mx.array, logits: mx.array
) -> tuple[mx.array, mx.array]:
    """The next token (B) of answers that share (`Decoding.shares`), and the logits (B, n_tokens) they were drawn from.

    known: each row's prompt and answer without its last token; last (B): these, which the device may still be
    computing. logits (B, V): after them. Up to rounding, each row's token is that of `process` and a call; but rows
    with the same rule are one operation.
    """
    logits = logits[:, : rows[0].n_tokens]
    guards = [id(row.request.guard) if row.guard_strength else None for row in rows]
    logits = _by_group(guards, logits, lambda places, own: _guarded(_Part.of(rows, known, last, places), own))
    limits = [_constraint_key(row, tokens) for row, tokens in zip(rows, known, strict=True)]
    logits = _by_group(limits, logits, lambda places, own: _constrained(_Part.of(rows, known, last, places), own))

    def chosen(places: Sequence[int], own: mx.array) -> mx.array:
        numbers = [rows[place].number(len(known[place]) + 1 - rows[place].n_prompt) for place in places]
        return choose(own, rows[places[0]].request.options, lambda: numbers)

    return _by_group([_sampling_key(row) for row in rows], logits, chosen), logits


def _by_group(
    keys: Sequence[Hashable], values: mx.array, change: Callable[[Sequence[int], mx.array], mx.array]
) -> mx.array:
    """`values` (B, ...) after `change` of each group of rows with the same key, in the order in which they came."""
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    if len(groups) == 1:
        return change(list(range(len(keys))), values)
    parts = [change(places, values[mx.array(places)]) for places in groups.values()]
    order = np.argsort([place for places in groups.values() for place in places])
    return mx.concatenate(parts)[mx.array(order)]


@dataclass(frozen=True, eq=False)
class _Part:
    """Some of the rows of `choose_together`, with what belongs to them."""

    rows: Sequence[Decoding]
    known: Sequence[Sequence[int]]
    last: mx.array

    @classmethod
    def of(
        cls, rows: Sequence[Decoding], known: Sequence[Sequence[int]], last: mx.array, places: Sequence[int]
    ) -> _Part:
        return cls([rows[place] for place in places], [known[place] for place in places], last[mx.array(places)])

    def with_last(self, before: npt.NDArray[np.int32]) -> mx.array:
        """Each row's tokens `before` (B, n) and its last one after them."""
        return mx.concatenate([mx.array(before), self.last[:, None].astype(mx.int32)], axis=1)


def _guarded(part: _Part, logits: mx.array) -> mx.array:
    guard = part.rows[0].request.guard
    if guard is None or not part.rows[0].guard_strength:
        return logits
    answers = [tokens[row.n_prompt :][1 - WINDOW_TOKENS :] for row, tokens in zip(part.rows, part.known, strict=True)]
    written = np.full((len(answers), max(map(len, answers))), -1, np.int32)
    for line, answer in zip(written, answers, strict=True):
        line[len(line) - len(answer) :] = answer
    strengths = mx.array([row.guard_strength for row in part.rows])
    return held_back(logits, part.with_last(written), guard.weights, strengths)


def _constraint_key(row: Decoding, known: Sequence[int]) -> Hashable:
    """Rows with the same key have one constraint, and as many tokens for it to look at."""
    constraint = row.request.constraint
    return None if constraint is None else (id(constraint), min(constraint.window or 0, len(known) + 1))


def _constrained(part: _Part, logits: mx.array) -> mx.array:
    constraint = part.rows[0].request.constraint
    if constraint is None:
        return logits
    n_before = min(constraint.window or 0, len(part.known[0]) + 1) - 1
    before = np.array([tokens[len(tokens) - n_before :] for tokens in part.known], np.int32)
    biases = {id(row.bias): row.bias for row in part.rows}
    bias = part.rows[0].bias if len(biases) == 1 else mx.stack([row.bias for row in part.rows])
    constrained = constraint.apply(part.with_last(before), logits, bias)
    count_rows([row.request.tally for row in part.rows], logits, constrained)
    return constrained


def _sampling_key(row: Decoding) -> Hashable:
    options = row.request.options
    return options.temperature, options.top_p, options.top_k, options.min_p
