"""One answer to write: its prompt, how its tokens are chosen, and what may stand in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_loopai.config import GenerationOptions, SamplingOptions
from mlx_loopai.generation.constraint import Constraint, Tally
from mlx_loopai.generation.grammar import Grammar
from mlx_loopai.generation.repetition import RepetitionGuard
from mlx_loopai.generation.sampling import choose, penalty, uniforms
from mlx_loopai.models.prompt_cache import Prefix
from mlx_loopai.models.vision.pictures import Pictures
from mlx_loopai.text.filter import Policy

Processor = Callable[[mx.array, mx.array], mx.array]
Sampler = Callable[[mx.array], mx.array]


@dataclass(frozen=True, eq=False)
class Request:
    """One answer to write. It draws from the stream (options.seed, row), whatever else is written at the same time.

    prefix: the beginning of `prompt` that need not be read again. stops: strings before which the answer ends.
    adapter: whether the model's adapter, if it has one, answers; otherwise its base does.
    pictures: the features at the prompt's picture tokens; None for a prompt of text.
    likeliest: how many of the likeliest tokens to report at each place, with the chosen one; None: no probabilities.
    goes_on: the prompt ends with the beginning of the answer, so that a space may follow it.
    policy: of the filter for its text; None: the text as the model wrote it. guard: against repetition, with the
        strength in `options`; None: no guard.
    """

    prompt: Sequence[int]
    options: SamplingOptions
    constraint: Constraint | None = None
    tally: Tally | None = None
    row: int = 0
    grammar: Grammar | None = None
    prefix: Prefix | None = None
    stops: tuple[str, ...] = ()
    policy: Policy | None = None
    guard: RepetitionGuard | None = None
    adapter: bool = True
    pictures: Pictures | None = None
    goes_on: bool = False
    likeliest: int | None = None

    @property
    def takes_likeliest(self) -> bool:
        """Whether each token is simply the likeliest of all: nothing is drawn, held back or ruled out."""
        bound = self.constraint or self.grammar or self.guard
        return not self.options.temperature and self.options.repetition_penalty == 1 and bound is None

    def decoding(self, n_tokens: int, n_unseen: int = 0) -> tuple[Sampler, Processor]:
        """(the sampler that draws a token from logits (1, V), the processor that changes the logits before).

        n_tokens: the head's rows beyond them are padding. n_unseen: how many of the prompt's first tokens are missing
        in the sequences that mlx-lm passes to the processor. A token's uniform number depends on its place in the
        answer alone, so that a draft model and the model that checks it draw alike.
        """
        prompt, options = list(self.prompt), self.options
        unseen = mx.array(prompt[:n_unseen], dtype=mx.uint32)
        numbers = uniforms(options, self.row, options.max_tokens + 1)
        steps = [] if options.repetition_penalty == 1 else [penalty(options.repetition_penalty)]
        if self.guard is not None and isinstance(options, GenerationOptions):
            steps.append(self.guard.processor(len(prompt), options.repetition_guard))
        if self.constraint is not None:
            steps.append(self.constraint.processor(prompt, self.tally))
        if self.grammar is not None:
            steps = [self.grammar.processor(len(prompt), steps)]
        place = 0

        def process(tokens: mx.array, logits: mx.array) -> mx.array:
            nonlocal place
            if n_unseen:
                tokens = mx.concatenate([unseen, tokens])
            place = tokens.size - len(prompt)
            logits = logits[:, :n_tokens]
            for step in steps:
                logits = step(tokens, logits)
            return logits

        def sample(logits: mx.array) -> mx.array:
            return choose(logits, options, lambda: [float(numbers[min(place, len(numbers) - 1)])])

        return sample, process
