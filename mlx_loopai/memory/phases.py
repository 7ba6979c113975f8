"""Memory of a run's other phases: loading, rehearsal, importance, validation. Counted, not fitted.

Each is an upper estimate of what its code allocates. Only the prediction of a training step is fitted to measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlx_loopai.memory.sizes import FLOAT_BYTES, Backend, StepOptions, float_bytes
from mlx_loopai.models.pass_sizes import (
    CACHE_STEP_TOKENS,
    DEFAULT_CHUNK_ROWS,
    PREFILL_ROWS,
    PREFILL_TOKENS,
    SCORED_TOKENS,
)
from mlx_loopai.models.shape import ModelShape

# Tokens that a general prompt is assumed to have; longer ones are rare.
PROMPT_TOKENS = 256
# Layers that are assumed to be read, cast and quantised at once.
_LAYERS_READ_AHEAD = 4
# Float32 buffers (rows, V) alive while a token is chosen: logits, their copy, sorted ones, exponentials, sums.
_CHOICE_BUFFERS = 6


@dataclass(frozen=True)
class Answering:
    """Prompts that are answered together: rows, tokens of the longest prompt, and of an answer at most."""

    rows: int
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True)
class PhaseSizes:
    """Sizes of the phases other than training; 0 tokens where a run has no such phase.

    prompt_tokens: of the longest general prompt. importance_tokens: padded tokens of a batch on which importance is
    measured. rehearsal_rows: prompts that the base answers together, with at most answer_tokens each. sampling: the
    answers that a run draws before each of its steps. converts: whether weights change their precision when read.
    """

    longest_row: int
    prompt_tokens: int = PROMPT_TOKENS
    importance_tokens: int = 0
    rehearsal_rows: int = 0
    answer_tokens: int = 0
    sampling: Answering | None = None
    converts: bool = True


def phase_bytes(
    shape: ModelShape, options: StepOptions, backend: Backend, phases: PhaseSizes, resting: Mapping[str, int]
) -> dict[str, int]:
    """Bytes that each phase needs in all. `resting`: weights (with what MLX has beside them on Metal, `runtime`),
    adapter, penalty and optimizer bytes of the run."""
    weights, adapter = resting["weights"] + resting["runtime"], resting["adapter"]
    found = {"loading": weights + (_conversion_bytes(shape, options) if phases.converts else 0)}
    if options.pictures is not None:
        found["pictures"] = weights + options.pictures.encoder_bytes(float_bytes(options.compute))
    if phases.rehearsal_rows:
        answering = Answering(phases.rehearsal_rows, phases.prompt_tokens, phases.answer_tokens)
        found["rehearsal"] = weights + answering_bytes(shape, options, backend, answering)
    if phases.sampling is not None:
        found["sampling"] = sum(resting.values()) + answering_bytes(shape, options, backend, phases.sampling)
    if phases.importance_tokens:
        work = _forward_bytes(shape, options, backend, phases.importance_tokens, phases.longest_row)
        observed = phases.importance_tokens * importance_token_bytes(shape, options)
        found["importance"] = weights + adapter + observed + work
    scored = max(SCORED_TOKENS, phases.longest_row)
    logits = 2 * 4 * min(DEFAULT_CHUNK_ROWS, scored) * shape.vocab_size
    forward = _forward_bytes(shape, options, backend, scored, phases.longest_row)
    found["validation"] = sum(resting.values()) + forward + logits
    return {name: int(size) for name, size in found.items()}


def importance_token_bytes(shape: ModelShape, options: StepOptions) -> int:
    """Bytes per token of a batch on which importance is measured: what the adapted layers read, their outputs, and the
    gradients there in float32. Measured on CPU: 0.94 of this a layer."""
    item = float_bytes(options.compute)
    where = options.lora_targets, options.lora_layers
    return shape.lora_outputs(*where) * (4 + item) + shape.lora_inputs(*where) * item


def _conversion_bytes(shape: ModelShape, options: StepOptions) -> int:
    """Bytes of the tensors that have been read but are not yet in their final precision."""
    block = max(block.matrix_parameters for block in shape.blocks)
    source = FLOAT_BYTES.get(options.compute, 2)
    return source * (shape.vocab_size * shape.hidden_size + min(_LAYERS_READ_AHEAD, shape.n_layers) * block)


def answering_bytes(shape: ModelShape, options: StepOptions, backend: Backend, answering: Answering) -> int:
    """Bytes of the rows' caches (twice, as they are copied when rows join or leave), of prefill, and of sampling."""
    rows, prompt = answering.rows, answering.prompt_tokens
    length = -(-(prompt + answering.answer_tokens) // CACHE_STEP_TOKENS) * CACHE_STEP_TOKENS
    caches = 2 * rows * length * 2 * shape.attending_blocks * shape.kv_size * float_bytes(options.compute)
    reading = _forward_bytes(shape, options, backend, min(PREFILL_TOKENS, min(rows, PREFILL_ROWS) * prompt), prompt)
    return caches + max(reading, _CHOICE_BUFFERS * rows * shape.vocab_size * 4)


def _forward_bytes(shape: ModelShape, options: StepOptions, backend: Backend, tokens: int, width: int) -> int:
    """A forward pass without gradients: what a block allocates (measured on CPU: 0.6 of this)."""
    item = float_bytes(options.compute)
    scores = 3 * shape.n_heads * width * item if backend == "cpu" else 4 * shape.n_heads
    per_token = item * (12 * shape.hidden_size + 4 * shape.attention_size + 8 * shape.intermediate_size) + scores
    return tokens * per_token
