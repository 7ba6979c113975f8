"""The figures that one side reports of one round, and the clock that measures them."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrainMeasured:
    """One side's round of training.

    first_s: seconds of steps with a new batch shape, which compile; they are counted apart. peak_bytes: above the
    weights; memory: how it was measured. real_token_share: share of computed tokens that are not padding.
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
        """Rate of decoded tokens after each row's first, over all rows; 0 when no answer has more than one token."""
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
    """Tokens of an optimizer step: real ones, supervised ones, and computed ones, which include padding."""

    real: int
    supervised: int
    computed: int


@dataclass
class StepClock:
    """Adds up the times and tokens of steps; steps with a new batch shape are counted apart."""

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
        """A step begins; its batch is not made yet."""
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
