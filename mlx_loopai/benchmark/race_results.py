"""The figures that one side reports of one round, and the clock that measures them."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrainMeasured:
    """One side's round of training.

    Steps whose batch has a shape that this process had not seen are counted apart (`first_s`): they compile.
    `peak_bytes` is above the weights; `memory` says how it was measured. `real_token_share`: of all tokens computed.
    """

    loss_first: float
    start_s: float
    first_s: float
    timed_s: float
    steps: int
    supervised_tokens: int
    tokens: int
    all_tokens: int
    computed_tokens: int
    weights_bytes: int
    peak_bytes: int
    memory: str
    versions: dict[str, str]

    @property
    def supervised_tokens_per_s(self) -> float:
        return self.supervised_tokens / self.timed_s

    @property
    def tokens_per_s(self) -> float:
        """Real tokens, prompts included."""
        return self.tokens / self.timed_s

    @property
    def real_token_share(self) -> float:
        return self.all_tokens / self.computed_tokens


@dataclass(frozen=True)
class BatchMeasured:
    """One side's round of generation with one batch size: `answers` are token ids without the end."""

    batch: int
    prompt_tokens: int
    first_token_s: float
    total_s: float
    peak_bytes: int
    answers: tuple[tuple[int, ...], ...]

    @property
    def tokens_per_s(self) -> float:
        """Decoded tokens after each row's first, of all rows together; 0 when each answer has one token at most."""
        after_first = sum(max(0, len(answer) - 1) for answer in self.answers)
        return after_first / max(self.total_s - self.first_token_s, 1e-9)

    @property
    def prefill_tokens_per_s(self) -> float:
        return self.prompt_tokens / self.first_token_s


@dataclass(frozen=True)
class GenerateMeasured:
    """One side's round of generation, batch size after batch size."""

    start_s: float
    batches: tuple[BatchMeasured, ...]
    weights_bytes: int
    memory: str
    versions: dict[str, str]


@dataclass(frozen=True)
class StepTokens:
    """What an optimizer step holds: real tokens, those supervised, and those computed with padding."""

    real: int
    supervised: int
    computed: int


@dataclass
class StepClock:
    """Adds up steps, those of a new shape apart from the others."""

    now: Callable[[], float] = time.perf_counter
    first_s: float = 0.0
    timed_s: float = 0.0
    steps: int = 0
    tokens: int = 0
    supervised: int = 0
    all_tokens: int = 0
    computed: int = 0
    _seen: set[Hashable] = field(default_factory=set)
    _since: float = 0.0

    def start(self) -> None:
        """A step begins, its batch not yet made."""
        self._since = self.now()

    def stop(self, shapes: set[Hashable], held: StepTokens) -> None:
        """The step is done: it computed batches of these shapes."""
        elapsed = self.now() - self._since
        self.steps += 1
        self.all_tokens += held.real
        self.computed += held.computed
        if shapes <= self._seen:
            self.timed_s += elapsed
            self.tokens += held.real
            self.supervised += held.supervised
        else:
            self.first_s += elapsed
            self._seen |= shapes
