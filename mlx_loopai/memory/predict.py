"""How many bytes one training step needs, term by term, from sizes alone.

Pure: no mlx. The constants below count what MLX 0.32 keeps for the backward pass of a pre-norm block with adapters; the
counts of what is alive besides are fitted to `mx.get_peak_memory()` on CPU and held by tests/unit/memory. On Metal they
are an assumption (`MemoryPrediction.calibrated_on` says so), but for attention, whose backward pass is memory-linear
there with a causal mask.

Kept for the backward pass, per token of a block without checkpointing (D hidden, Q = heads * head_dim, KV = key/value
heads * head_dim, I intermediate, H heads, T width):

    7 D   block input; its normalisation; normed input of q, k, v (the gradient of lora_a needs it); scaled queries;
          attention output (input of o_proj); state after attention; normed input of gate and up
    2 KV  keys, values
    5 I   gate; its sigmoid; silu(gate); up; their product (input of down_proj)
    H T   attention weights (CPU; on Metal one log-sum-exp a head)
    R     one row of x A per adapter

Adapters are float32 but cast to the dtype of their input. With checkpointing only the block inputs stay, and one
block's kept tensors are built again; MLX also allocates ahead of what has run, so that on CPU nearly the whole of a
block's forward and backward pass is alive at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlx_loopai.errors import InputError
from mlx_loopai.models.shape import ModelShape, Quantization
from mlx_loopai.units import MIB

Backend = Literal["metal", "cpu"]

FLOAT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
QUANTIZED = {f"{bits}-bit": Quantization(bits, 64) for bits in (8, 6, 5, 4, 3, 2)}
CALIBRATED_ON = {
    "cpu": "MLX 0.32 on a Linux x86 CPU",
    "metal": "not measured on Metal: the CPU's constants, memory-linear attention",
}

_MLP_LINEARS = ("gate_proj", "up_proj", "down_proj", "dense_h_to_4h", "dense_4h_to_h")
# Interpreter, mlx, mlx-lm and a tokenizer of 150,000 entries: 376 MiB resident before any data, and room for rows.
PYTHON_BYTES = 512 * MIB
# Freed buffers kept for reuse: every width of a batch asks for the same sizes again.
_CACHE_SHARE = 0.25
_CACHE_FLOOR_BYTES = 64 * MIB


@dataclass(frozen=True)
class StepOptions:
    """What decides the memory of a step.

    base_precision: fp32, bf16, fp16 or N-bit (a quantised checkpoint keeps its own); compute: dtype of activations.
    micro_tokens: padded tokens B * T of a micro-batch; width: T. supervised_share: part of them that are targets.
    accumulates: gradients of several micro-batches are summed.
    penalty_activations: rows that `sketch` keeps a module. lora_layers 0, lora_targets (): all.
    """

    base_precision: str = "fp32"
    compute: str = "fp32"
    lora_rank: int = 8
    lora_targets: tuple[str, ...] = ()
    lora_layers: int = 0
    micro_tokens: int = 2048
    width: int = 2048
    supervised_share: float = 1.0
    checkpointing: bool = False
    chunk_rows: int = 256
    penalty: str = "none"
    penalty_activations: int = 0
    accumulates: bool = True


@dataclass(frozen=True)
class MemoryPrediction:
    """Bytes per term. `cache` and `python` are outside what `mx.get_peak_memory()` counts; the others add up to it."""

    terms: dict[str, int]
    calibrated_on: str

    @property
    def total_bytes(self) -> int:
        return sum(self.terms.values())

    @property
    def peak_bytes(self) -> int:
        """What `mx.get_peak_memory()` should show."""
        return self.total_bytes - self.terms["cache"] - self.terms["python"]


def predict(shape: ModelShape, options: StepOptions, backend: Backend) -> MemoryPrediction:
    """Bytes per term at the largest moment of a training step.

    That moment is either the loss or the backward pass of a block: `loss` is what the loss needs, and `activations`
    and `attention` hold what is kept plus only what a block's backward pass needs beyond the loss. So the terms add up.

    Raises: InputError for an unknown precision or adapter target.
    """
    fixed = _fixed_terms(shape, options)
    loss = _loss_bytes(shape, options, backend)
    kept, kept_attention = _kept_bytes(shape, options, backend)
    work, work_attention = _work_bytes(shape, options, backend)
    beyond = max(0.0, work + work_attention - loss)
    share = work_attention / (work + work_attention)
    transient = {
        "activations": int(kept + beyond * (1 - share)),
        "attention": int(kept_attention + beyond * share),
        "loss": int(loss),
    }
    cache = max(_CACHE_FLOOR_BYTES, int(_CACHE_SHARE * sum(transient.values())))
    terms = {**fixed, **transient, "cache": cache, "python": PYTHON_BYTES}
    return MemoryPrediction(terms, CALIBRATED_ON[backend])


def weight_bytes(shape: ModelShape, precision: str) -> int:
    """Bytes of the frozen base. A quantised shape keeps its own form; norms and biases are never quantised.

    Raises: InputError for an unknown precision.
    """
    quantization = shape.quantization or QUANTIZED.get(precision)
    if quantization is None:
        return shape.parameters * _float_bytes(precision)
    vector_bytes = _float_bytes(precision) if precision in FLOAT_BYTES else 2
    return int(shape.matrix_parameters * quantization.bits_per_weight / 8) + shape.vector_parameters * vector_bytes


def _float_bytes(precision: str) -> int:
    if precision not in FLOAT_BYTES:
        raise InputError(f"precision {precision!r} is unknown; known: {', '.join([*FLOAT_BYTES, *QUANTIZED])}")
    return FLOAT_BYTES[precision]


def _fixed_terms(shape: ModelShape, options: StepOptions) -> dict[str, int]:
    """What stays from step to step. Adapters, gradients and AdamW's two moments are float32."""
    adapter = 4 * shape.lora_parameters(options.lora_rank, options.lora_targets, options.lora_layers)
    return {
        "weights": weight_bytes(shape, options.base_precision),
        "adapter": adapter,
        # The sum so far and the micro-batch's own.
        "gradients": adapter * (2 if options.accumulates else 1),
        "optimizer": 2 * adapter,
        "penalty": _penalty_bytes(shape, options),
    }


def _penalty_bytes(shape: ModelShape, options: StepOptions) -> int:
    """One input and one output vector a module and, in the penalty's own gradient, one more adapter's worth.

    `sketch` also keeps general activations (N, D_in) a module, and while it runs one layer's outputs for them.
    """
    if options.penalty == "none":
        return 0
    vectors = shape.lora_parameters(1, options.lora_targets, options.lora_layers)
    if options.penalty == "sketch":
        vectors += options.penalty_activations * shape.lora_inputs(options.lora_targets, options.lora_layers)
        vectors += 3 * options.penalty_activations * max(out for out, _ in shape.block_linears().values())
    return 4 * vectors + 4 * shape.lora_parameters(options.lora_rank, options.lora_targets, options.lora_layers)


@dataclass(frozen=True)
class _Sizes:
    """Bytes of one (B T, n) tensor for the n of a block."""

    hidden: float
    kv: float
    inner: float
    scores: float
    plain_hidden: float
    ranks: float

    @staticmethod
    def of(shape: ModelShape, options: StepOptions, backend: Backend) -> _Sizes:
        tokens, item = options.micro_tokens, _float_bytes(options.compute)
        width = max(shape.hidden_size, shape.attention_size)
        row = shape.n_heads * (options.width * item if backend == "cpu" else 4)
        return _Sizes(
            hidden=tokens * width * item,
            kv=tokens * shape.kv_size * item,
            inner=tokens * shape.intermediate_size * item,
            scores=tokens * row,
            plain_hidden=tokens * shape.hidden_size * item,
            ranks=tokens * item * options.lora_rank * len(shape.lora_targets(options.lora_targets)),
        )


def _kept_bytes(shape: ModelShape, options: StepOptions, backend: Backend) -> tuple[float, float]:
    """(tensors, attention weights) that wait for the backward pass in all blocks from the first adapter on."""
    sizes = _Sizes.of(shape, options, backend)
    layers = shape.lora_layers(options.lora_layers)
    if options.checkpointing:
        # The input of each block, and half as much again for its cotangent and MLX's allocating ahead.
        return 1.5 * layers * sizes.plain_hidden, 0.0
    hidden, inner = _kept_counts(shape, options)
    block = hidden * sizes.hidden + 2 * sizes.kv + inner * sizes.inner + sizes.ranks
    return layers * block, layers * sizes.scores


def _kept_counts(shape: ModelShape, options: StepOptions) -> tuple[int, int]:
    """Hidden-sized and inner-sized tensors that a block keeps: without an adapter, a linear's input is not needed."""
    targets = set(shape.lora_targets(options.lora_targets))
    normed = bool(targets & {"q_proj", "k_proj", "v_proj", "query_key_value"})
    hidden = (
        4 + normed + bool(targets & {"o_proj", "dense"}) + bool(targets & {"gate_proj", "up_proj", "dense_h_to_4h"})
    )
    return hidden, 4 + bool(targets & {"down_proj", "dense_4h_to_h"})


def _work_bytes(shape: ModelShape, options: StepOptions, backend: Backend) -> tuple[float, float]:
    """(tensors, attention) alive during one block's backward pass besides what is kept.

    Two moments compete: the MLP's, and the attention's, where scores and their gradients are alive at once.
    """
    sizes = _Sizes.of(shape, options, backend)
    if not options.checkpointing:
        return 2 * sizes.hidden + 8 * sizes.kv + 5 * sizes.inner, 2.5 * sizes.scores
    # An adapter adds its update, the scaled sum and their gradients to what a linear layer alone would allocate.
    adapted = set(shape.lora_targets(options.lora_targets))
    in_mlp = len(adapted & set(_MLP_LINEARS)) / len([name for name in shape.block_linears() if name in _MLP_LINEARS])
    shared = (6 + 3 * len(adapted) / len(shape.block_linears())) * sizes.hidden + 10 * sizes.kv
    mlp = (shared + (10 + 8 * in_mlp) * sizes.inner, 1.8 * sizes.scores)
    attention = (shared + 8 * sizes.inner, 3.5 * sizes.scores)
    return max(mlp, attention, key=sum)


def _loss_bytes(shape: ModelShape, options: StepOptions, backend: Backend) -> float:
    """Chunks of float32 logits, and the hidden gradients of the supervised rows."""
    rows = max(1, round(options.micro_tokens * options.supervised_share))
    chunk = min(options.chunk_rows, rows)
    chunks = -(-rows // chunk)
    buffers = _chunk_buffers(chunks, backend, options.compute != "fp32")
    hidden_gradients = 3 * rows * shape.hidden_size * _float_bytes(options.compute)
    return buffers * chunk * shape.vocab_size * 4.0 + hidden_gradients


def _chunk_buffers(chunks: int, backend: Backend, casts: bool) -> float:
    """How many float32 (chunk, V) buffers the loss holds at its peak.

    On CPU (models/eager_loss.py) one, in which all work is done; half precision has it once more, as logits or as
    gradient. On Metal the lazy graph needs 3 a chunk (4 with casts) and work is dispatched ahead: up to 10, counted on
    CPU for that graph, until a Mac has measured.
    """
    if backend == "cpu":
        return 1.5 if casts else 1
    return min(4 * chunks, 10)
