"""The settings of a run that decide its memory: those that the user fixed, and those to choose, most wanted first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version

from mlx_loopai.config import LoraOptions, MemoryOptions, ReplayOptions, TrainOptions
from mlx_loopai.memory.guard_terms import GuardTerms
from mlx_loopai.memory.machine import Machine
from mlx_loopai.memory.phases import PROMPT_TOKENS, Answering, PhaseSizes, answering_bytes, importance_token_bytes
from mlx_loopai.memory.picture_terms import PictureSizes
from mlx_loopai.memory.predict import (
    CACHE_FLOOR_BYTES,
    PYTHON_BYTES,
    Correction,
    MemoryPrediction,
    adapter_bytes,
    guard_bytes,
    moment_bytes,
    predict,
    weight_bytes,
)
from mlx_loopai.memory.published import attention_of, published
from mlx_loopai.memory.sizes import RehearsedBatch, StepOptions
from mlx_loopai.models.pass_sizes import ANSWERED_ROWS, DEFAULT_CHUNK_ROWS, MEASURED_ROWS
from mlx_loopai.models.shape import ModelShape

# More tokens at once than this do not run faster, on a CPU and (by the roofline) on M1 to M4.
_MOST_MICRO_TOKENS = 8192
_CHUNK_ROWS = tuple(DEFAULT_CHUNK_ROWS >> halvings for halvings in range(4))
_SMALL_BASE = "4-bit"
# Rows of a batch on which a guard measures, and prompts that the base answers together, the most wanted first.
_MEASURED_ROWS = tuple(MEASURED_ROWS >> halvings for halvings in range(4))
_ANSWERED_ROWS = tuple(ANSWERED_ROWS >> halvings for halvings in range(4))
PHASE_OVERHEAD_BYTES = PYTHON_BYTES + CACHE_FLOOR_BYTES
# Released checkpoints of these models are in half precision.
_RELEASED_PRECISION = ("bf16", "fp16")


@dataclass(frozen=True)
class Known:
    """What is known of a run's data and machine besides its configuration.

    longest_row: tokens of the longest row; 0: `train.max_tokens` is assumed. longest_asked: tokens of the longest
    prompt that the model answers while it trains; 0: `PROMPT_TOKENS` is assumed where there are such prompts.
    longest_prompt: tokens of the longest general prompt that the base answers; 0: `PROMPT_TOKENS` is assumed.
    corrections: what a probe measured on this machine, by whether it used checkpointing (`memory.corrections`).
    pictures: sizes of the rows' pictures; None for rows of text.
    """

    longest_row: int = 0
    longest_asked: int = 0
    longest_prompt: int = 0
    corrections: Mapping[bool, Correction] = field(default_factory=dict)
    pictures: PictureSizes | None = None


NOTHING_KNOWN = Known()


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user fixed and what may be chosen.

    replay_shares: share of rehearsal rows in the steps of each phase; empty where the run has none. draws: most answers
    that the run draws together before a step, and of at most how many tokens; None where it draws none.
    """

    shape: ModelShape
    machine: Machine
    budget_bytes: int
    known: Known
    guard: GuardTerms
    dtype: str
    lora: LoraOptions
    train: TrainOptions
    memory: MemoryOptions
    replay: ReplayOptions
    replay_shares: tuple[float, ...]
    draws: Answering | None = None

    @property
    def width(self) -> int:
        """Tokens of the longest row."""
        return min(self.known.longest_row, self.train.max_tokens) or self.train.max_tokens

    @property
    def compute(self) -> str:
        """The dtype of activations."""
        automatic = "bf16" if self.machine.backend == "metal" else "fp32"
        return automatic if self.dtype == "auto" else self.dtype

    def precisions(self) -> tuple[str, ...]:
        if self.shape.quantization is not None:
            return (f"{self.shape.quantization.bits}-bit",)
        # Not on a CPU, where a quantised matrix product is too slow to train with (2-5 GFLOP/s measured). Weights that
        # are trained themselves are never quantised.
        if self.dtype != "auto" or self.machine.backend == "cpu" or self.train.method == "full":
            return (self.compute,)
        return (self.compute, _SMALL_BASE)

    def layers(self) -> tuple[int, ...]:
        wanted, deep = self.lora.layers, self.shape.n_layers
        if wanted:
            return (wanted,)
        return (0, *(n for n in (deep // 2, deep // 4) if n > 0))

    def checkpointing(self) -> tuple[bool, ...]:
        wanted = self.memory.checkpointing
        return (False, True) if wanted == "auto" else (wanted,)

    def chunk_rows(self) -> tuple[int, ...]:
        wanted = self.memory.chunk_rows
        return (wanted,) if wanted else _CHUNK_ROWS

    def micro_tokens(self) -> tuple[int, ...]:
        """From a whole step's rows (at most the useful size) down to one row of full width."""
        wanted = self.memory.micro_tokens
        if wanted:
            # A micro-batch holds one row at least, however few tokens were asked for.
            return (max(wanted, self.width),)
        most = max(1, min(self._own_rows(), _MOST_MICRO_TOKENS // self.width))
        counts = [most]
        while counts[-1] > 1:
            counts.append(counts[-1] // 2)
        return tuple(count * self.width for count in counts)

    def options(self, precision: str, layers: int, checkpointing: bool, chunk_rows: int, tokens: int) -> StepOptions:
        return StepOptions(
            base_precision=precision,
            compute=self.compute,
            lora_rank=self.lora.rank,
            lora_targets=self.lora.targets,
            lora_layers=layers,
            micro_tokens=tokens,
            width=self.width,
            checkpointing=checkpointing,
            chunk_rows=chunk_rows,
            guard=self.guard,
            optimizer=self.train.optimizer,
            dora=self.lora.dora,
            whole=self.train.method == "full",
            moments=self.train.moments,
            accumulates=self._accumulates(tokens),
            rehearsed=self._rehearsed(),
            pictures=self.known.pictures,
            quadratic_attention=self.machine.backend == "metal" and attention_of(version("mlx")) == "quadratic",
        )

    def _accumulates(self, tokens: int) -> bool:
        """Whether a step has several micro-batches of so many tokens."""
        return bool(self._rehearsed() or self.draws) or tokens < self.train.rows_per_step * self.width

    def _own_rows(self) -> int:
        """The most rows of a step that may be padded together to the width of the longest."""
        rows, rehearsed = self.train.rows_per_step, self._rehearsed()
        return rows if rehearsed is None else max(1, rows - math.floor(rows * min(self.replay_shares)))

    def _rehearsed(self) -> RehearsedBatch | None:
        """The micro-batch of the base's answers, where steps keep them apart from the run's own rows."""
        replay, share = self.replay, max(self.replay_shares, default=0.0)
        if not (replay.mixes_steps and share > 0):
            return None
        width = self.width
        if replay.source != "records":
            width = min(self.train.max_tokens, self._prompt_tokens() + replay.answer_tokens)
        targets = width if replay.source == "records" else replay.answer_tokens
        return RehearsedBatch(math.ceil(self.train.rows_per_step * share), width, targets)

    def _prompt_tokens(self) -> int:
        return self.known.longest_prompt or PROMPT_TOKENS

    def attempts(self) -> Iterator[StepOptions]:
        """Every combination, the most wanted first: what is given up first varies fastest."""
        for layers in self.layers():
            for precision in self.precisions():
                for checkpointing in self.checkpointing():
                    for chunk_rows in self.chunk_rows():
                        for tokens in self.micro_tokens():
                            yield self.options(precision, layers, checkpointing, chunk_rows, tokens)

    def predict(self, options: StepOptions) -> MemoryPrediction:
        phases = self.phases(options)
        correction = self.known.corrections.get(options.checkpointing)
        return predict(self.shape, options, self.machine.backend, phases, correction)

    def phases(self, options: StepOptions) -> PhaseSizes:
        return PhaseSizes(
            longest_row=self.width,
            prompt_tokens=self._prompt_tokens(),
            importance_tokens=self._importance_tokens(options),
            rehearsal_rows=self._rehearsal_rows(options),
            answer_tokens=self.replay.answer_tokens,
            sampling=self._sampling(options),
            converts=options.base_precision not in _RELEASED_PRECISION and self.shape.quantization is None,
        )

    def _room(self, options: StepOptions) -> int:
        """Bytes that the base leaves for a phase before training."""
        return self.budget_bytes - weight_bytes(self.shape, options.base_precision) - PHASE_OVERHEAD_BYTES

    def _sampling(self, options: StepOptions) -> Answering | None:
        """As many answers together as the budget has room for beside what rests between steps."""
        if self.draws is None:
            return None
        resting = sum(size(self.shape, options) for size in (adapter_bytes, moment_bytes, guard_bytes))
        runtime = int(published().process_bytes) if self.machine.backend == "metal" else 0
        room = self._room(options) - resting - runtime
        return self._fitting(
            [replace(self.draws, rows=min(self.draws.rows, rows)) for rows in _ANSWERED_ROWS], options, room
        )

    def _rehearsal_rows(self, options: StepOptions) -> int:
        replay = self.replay
        if replay.source != "self" or not self.replay_shares:
            return 0
        tried = [Answering(rows, self._prompt_tokens(), replay.answer_tokens) for rows in _ANSWERED_ROWS]
        return self._fitting(tried, options, self._room(options)).rows

    def _fitting(self, tried: Sequence[Answering], options: StepOptions, room: int) -> Answering:
        """The first of `tried` for which `room` bytes are enough; the last where none is."""
        sizes = (answering_bytes(self.shape, options, self.machine.backend, one) for one in tried)
        return next((one for one, size in zip(tried, sizes, strict=True) if size <= room), tried[-1])

    def _importance_tokens(self, options: StepOptions) -> int:
        """The largest batch for importance that stays in the budget; at least one row, however long."""
        if not self.guard.observes:
            return 0
        most = (self._room(options) - adapter_bytes(self.shape, options)) // importance_token_bytes(self.shape, options)
        width = self._importance_width()
        return next((rows * width for rows in _MEASURED_ROWS if rows * width <= most), width)

    def _importance_width(self) -> int:
        """Tokens of its longest row: a rehearsal answer with its prompt, or as long as training's."""
        if self.replay.source != "self":
            return self.width
        return min(self.width, self._prompt_tokens() + self.replay.answer_tokens)

    def fits(self, options: StepOptions) -> bool:
        return self.predict(options).total_bytes <= self.budget_bytes and not self._oversized(options)

    def _oversized(self, options: StepOptions) -> bool:
        """Whether one array exceeds the largest buffer that the GPU can allocate."""
        logits = options.chunk_rows * self.shape.vocab_size * 4
        embedding = weight_bytes(self.shape, options.base_precision) * self.shape.vocab_size * self.shape.hidden_size
        embedding //= self.shape.parameters
        return max(logits, embedding) > self.machine.max_buffer_bytes
