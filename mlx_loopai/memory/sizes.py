"""The bytes that a training step needs: tensors counted from sizes, times constants fitted to measurements.

Counted, per token of a block without checkpointing (D hidden, Q = heads * head_dim, KV = key/value heads * head_dim,
I intermediate, H heads, T width):

    7 D   block input; its normalisation; normed input of q, k, v (the gradient of lora_a needs it); scaled queries;
          attention output (input of o_proj); state after attention; normed input of gate and up
    2 KV  keys, values
    3 I   gate; its sigmoid; up (their products are computed again: models/backbone.py)
    H T   attention weights (CPU; on Metal one log-sum-exp a head, since its backward pass is memory-linear)
    R     one row of x A per adapter

The last block computes its MLP for supervised positions only. Besides what is kept, MLX allocates about a hundred
operations ahead of what has run. The constants say how many tensors that is; `python -m tools.calibrate fit` fits them
to `mx.get_peak_memory()`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.memory.guard_terms import NO_GUARD, GuardTerms
from mlx_loopai.memory.picture_terms import PictureSizes
from mlx_loopai.models.architectures import Block, Linear
from mlx_loopai.models.pass_sizes import (
    ATTENTION_SPAN,
    CHUNK_TOKENS,
    DEFAULT_CHUNK_ROWS,
    LONGEST_KEPT,
    PAD_TARGETS_TO,
    SPAN_TOKENS,
    VECTOR_ENTRIES,
)
from mlx_loopai.models.shape import ModelShape

Backend = Literal["metal", "cpu"]
CONSTANTS = Path(__file__).with_name("constants.json")
FLOAT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}

# What the linears of an MLP read (models/architectures).
_MLP_READS = ("mlp", "inner", "experts", "expert inner")
# Spans of attention whose scores are allocated at once, measured on CPU with rows of 513 to 2,048 tokens.
_SPANS_ALIVE = 3
# On Metal the loss is a lazy graph (models/loss.py) that allocates chunks ahead: 4 buffers a chunk, at most 10 alive.
# Measured for that graph on a CPU.
_METAL_CHUNK_BUFFERS, _METAL_MOST_BUFFERS = 4, 10
# Largest float32 vector of an update.
VECTOR_BYTES = 4 * VECTOR_ENTRIES


@dataclass(frozen=True)
class RehearsedBatch:
    """The rehearsal rows of a step where they are in micro-batches of their own: rows, padded width, targets a row."""

    rows: int
    width: int
    targets: int


@dataclass(frozen=True)
class StepOptions:
    """The settings that decide the memory of a step.

    base_precision: fp32, bf16, fp16 or N-bit (a quantised checkpoint keeps its own). compute: dtype of activations.
    micro_tokens: padded tokens B * T of a micro-batch; width: T. supervised_share: share of them that are targets.
    guard: what the run's guards need. accumulates: gradients of several micro-batches are summed. lora_layers 0,
    lora_targets (): all. whole: full fine-tuning of the matrices there; lora_rank and dora are not used then.
    optimizer, moments: as `train.optimizer` and `train.moments`. rehearsed: None where a micro-batch may hold any row.
    pictures: None for a run of text. quadratic_attention: the backward pass of attention keeps scores on Metal (MLX
    before 0.32.4).
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
    chunk_rows: int = DEFAULT_CHUNK_ROWS
    guard: GuardTerms = NO_GUARD
    accumulates: bool = True
    optimizer: str = "adamw"
    dora: bool = False
    whole: bool = False
    moments: str = "fp32"
    rehearsed: RehearsedBatch | None = None
    pictures: PictureSizes | None = None
    quadratic_attention: bool = False


@dataclass(frozen=True)
class Constants:
    """How many tensors of each size are alive at a step's largest moment, besides what is counted. All at least 0.

    Prefixes name the moment. `plain`: without checkpointing; `mlp`, `attention`: with it, the larger of the two counts;
    `delta`: the backward pass of linear attention, whose tensors `DeltaSizes` has. Suffixes name the tensor. d, kv, i:
    (tokens, D), (tokens, KV), (tokens, I); s: (tokens, H, T); r: (tokens, R) of every adapter. `_a`: added when every
    linear there has an adapter. `_half`: added in half precision (float32 softmax, cast adapters).

    blocks, plain_blocks: blocks whose work is allocated at once. ahead_half: share added to all work on checkpointed
    blocks in half precision. Quantised bases are among them: their products are slow on a CPU, so that MLX allocates as
    far ahead as it ever does (docs/memory.md). factors: cast and scaled factors, in adapters. gradients, update:
    multiples of the bytes of all trained numbers; update_vector: of one vector of them. experts_d: (tokens,
    chosen, D), the states of all experts that a token is sent to, added to `mlp_d`.
    """

    loss_scores: float = 1.1
    loss_scores_half: float = 0.52
    loss_rows: float = 10.0
    head_norms: float = 1.9
    plain_d: float = 13.0
    plain_kv: float = 4.1
    plain_i: float = 5.6
    plain_s: float = 2.6
    plain_r: float = 0.01
    plain_blocks: float = 1.2
    factors: float = 0.75
    inputs: float = 0.45
    blocks: float = 2.6
    mlp_d: float = 11.0
    mlp_d_a: float = 13.0
    mlp_kv: float = 2.7
    mlp_i: float = 10.0
    mlp_i_a: float = 6.6
    mlp_s: float = 0.76
    attention_d: float = 8.0
    attention_d_a: float = 2.6
    attention_kv: float = 8.3
    attention_i: float = 14.0
    attention_s: float = 2.0
    work_r: float = 0.01
    scores_half: float = 1.9
    ahead_half: float = 0.013
    gradients: float = 1.4
    adapter_half: float = 0.35
    update: float = 3.0
    update_vector: float = 4.0
    delta_projected: float = 7.5
    delta_keys: float = 3.3
    delta_reads: float = 17.0
    delta_values: float = 5.3
    delta_memory: float = 1.9
    delta_d: float = 5.0
    delta_i: float = 1.0
    experts_d: float = 5.0
    experts_d_a: float = 3.0


# Fitted apart from the others, to steps of models that have linear attention, and of models that have experts.
LINEAR_ATTENTION = tuple(name for name in Constants.__dataclass_fields__ if "delta" in name)
EXPERTS = tuple(name for name in Constants.__dataclass_fields__ if "experts" in name)


@cache
def fitted() -> Constants:
    """The committed constants."""
    return Constants(**json.loads(CONSTANTS.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class DeltaSizes:
    """Bytes of the tensors of linear attention (models/gated_delta.py), all float32 except the first.

    projected: outputs of a block's projections, (tokens, mixed + values). Per token of a span of each row: keys
    (K, D_k), reads (H, D_k), values (H, D_v). memory: (H, D_k, D_v) for each chunk.
    """

    projected: float
    keys: float
    reads: float
    values: float
    memory: float

    @staticmethod
    def of(shape: ModelShape, options: StepOptions) -> DeltaSizes:
        """The sizes of a micro-batch of `options`, for a shape that has linear attention."""
        assert shape.delta is not None
        heads, span = shape.delta, min(SPAN_TOKENS, options.width)
        rows, item = max(1, options.micro_tokens // options.width), float_bytes(options.compute)
        tokens = 4.0 * rows * span
        return DeltaSizes(
            projected=float(options.micro_tokens * item) * (heads.mixed_size + heads.values_width),
            keys=tokens * heads.keys * heads.key_size,
            reads=tokens * heads.values * heads.key_size,
            values=tokens * heads.values_width,
            memory=4.0 * rows * (span // CHUNK_TOKENS + 1) * heads.values_width * heads.key_size,
        )


@dataclass(frozen=True)
class Sizes:
    """Bytes of one tensor of each size that a block has, and of the loss; see `Constants` for the names."""

    blocks: int
    mlp_blocks: float
    hidden: float
    kv: float
    inner: float
    scores: float
    ranks: float
    kept: float
    kept_scores: float
    factors: float
    outputs: float
    head_norms: float
    inputs: float
    adapted: float
    adapted_attention: float
    adapted_mlp: float
    chunk: float
    chunks: int
    loss_rows: float
    delta: DeltaSizes | None
    kept_behind_delta: float
    experts: float
    adapted_experts: float
    half: bool

    @staticmethod
    @cache
    def of(shape: ModelShape, options: StepOptions, backend: Backend) -> Sizes:
        """The sizes of a micro-batch of `options`. Raises: InputError for an unknown compute dtype or target."""
        tokens, item = options.micro_tokens, float_bytes(options.compute)
        adapted = shape.adapted(options.lora_targets, options.lora_layers)
        blocks = len(adapted)
        linears = [linear for block in shape.blocks[shape.n_layers - blocks :] for linear in block.linears.values()]
        with_adapter = [linear for block in adapted for linear in block.values()]
        rows = max(1, round(tokens * options.supervised_share))
        rows = -(-rows // PAD_TARGETS_TO) * PAD_TARGETS_TO
        chunk = min(options.chunk_rows, rows)
        last_rows = min(1.0, rows / tokens)
        mlp_blocks = blocks - 1 + last_rows
        kept = [_kept_block(*pair) for pair in zip(shape.blocks[shape.n_layers - blocks :], adapted, strict=True)]
        kept_mlp = sum(mlp for _, mlp in kept) - (1 - last_rows) * kept[-1][1]
        behind = _blocks_behind_delta(adapted)
        in_spans = backend == "cpu" and _attends_in_spans(shape, options)
        keys_alive = min(options.width, _SPANS_ALIVE * ATTENTION_SPAN) if in_spans else options.width
        width = keys_alive * item if backend == "cpu" else 4
        scores = float(tokens * shape.n_heads * width)
        chosen = shape.experts.chosen if shape.experts else 0
        # A block's, on average.
        rank = 0 if options.whole else options.lora_rank
        met = sum(chosen if linear.experts else 1 for linear in with_adapter)
        ranks = float(tokens * item) * rank * met / blocks
        return Sizes(
            blocks=blocks,
            mlp_blocks=mlp_blocks,
            hidden=float(tokens * max(shape.hidden_size, shape.attention_size) * item),
            kv=float(tokens * shape.kv_size * item),
            inner=float(tokens * _inner_width(shape) * item),
            scores=scores,
            ranks=ranks,
            kept=tokens * item * (sum(attention for attention, _ in kept) + kept_mlp) + blocks * ranks,
            kept_scores=0.0 if in_spans else blocks * scores,
            factors=4.0 * shape.lora_parameters(rank, options.lora_targets, options.lora_layers),
            # The gradient of DoRA's magnitudes needs what they multiply.
            outputs=float(tokens * item * sum(linear.out for linear in with_adapter)) / blocks if options.dora else 0.0,
            head_norms=float(blocks * tokens * item * (shape.attention_size + shape.kv_size))
            if shape.architecture == "qwen3"
            else 0.0,
            inputs=float(blocks * tokens * shape.hidden_size * item),
            adapted=len(with_adapter) / len(linears),
            adapted_attention=_share(with_adapter, linears, in_mlp=False),
            adapted_mlp=_share(with_adapter, linears, in_mlp=True),
            chunk=4.0 * chunk * shape.vocab_size,
            chunks=-(-rows // chunk),
            loss_rows=4.0 * rows * shape.hidden_size,
            delta=DeltaSizes.of(shape, options) if behind < blocks else None,
            kept_behind_delta=tokens * item * sum(map(sum, kept[blocks - behind :])),
            experts=float(tokens * chosen * shape.hidden_size * item),
            adapted_experts=_share_of_experts(with_adapter, linears),
            half=item < 4,
        )


def float_bytes(precision: str) -> int:
    """Bytes of a number. Raises: InputError for an unknown precision."""
    if precision not in FLOAT_BYTES:
        raise InputError(
            tr(
                "precision {precision!r} is unknown; known: {known}, or 2-bit to 8-bit",
                precision=precision,
                known=", ".join(FLOAT_BYTES),
            )
        )
    return FLOAT_BYTES[precision]


def _share(adapted: Sequence[Linear], linears: Sequence[Linear], in_mlp: bool) -> float:
    """The share of the linears of MLPs, or of all others, that have an adapter."""
    some, all_ = ([each for each in group if (each.reads in _MLP_READS) is in_mlp] for group in (adapted, linears))
    return len(some) / len(all_)


def _share_of_experts(adapted: Sequence[Linear], linears: Sequence[Linear]) -> float:
    """The share of the experts' stacked matrices that have an adapter; 0 where there are none."""
    stacked = sum(linear.experts > 0 for linear in linears)
    return sum(linear.experts > 0 for linear in adapted) / stacked if stacked else 0.0


def _inner_width(shape: ModelShape) -> int:
    """Inner width of the MLP that a token passes through: a dense one, or all of its experts together."""
    if shape.experts is None:
        return shape.intermediate_size
    met = shape.experts.chosen * shape.experts.inner + shape.experts.shared_inner
    return max(met, shape.intermediate_size) if "dense" in shape.kinds else met


def _attends_in_spans(shape: ModelShape, options: StepOptions) -> bool:
    """Whether attention on a CPU keeps no probabilities of this width's rows (models/attention.py)."""
    return options.width > LONGEST_KEPT and options.compute == "fp32" and "window" not in shape.kinds


def _blocks_behind_delta(adapted: Sequence[Mapping[str, Linear]]) -> int:
    """How many adapted blocks come after the last one with linear attention that the backward pass goes through."""
    has = [any(name.startswith("linear_attn.") for name in block) for block in adapted]
    return has[::-1].index(True) if any(has) else len(adapted)


def _kept_block(block: Block, adapted: Mapping[str, Linear]) -> tuple[int, int]:
    """Numbers a token that a block's attention and its MLP keep: without an adapter, a linear's input is not needed.

    The product that down_proj reads is computed again (models/backbone.py).
    """
    reads = {linear.reads: linear.into for linear in adapted.values()}
    of_attention = block.kept + sum(size for name, size in reads.items() if name not in _MLP_READS)
    return of_attention, block.kept_mlp + reads.get("mlp", 0)


def kept_bytes(sizes: Sizes, checkpointing: bool, constants: Constants) -> tuple[float, float]:
    """Bytes of (tensors, attention weights) kept for the backward pass, in all blocks from the first adapter on."""
    if checkpointing:
        return constants.inputs * sizes.inputs + sizes.outputs, 0.0
    tensors = sizes.kept + sizes.blocks * sizes.outputs
    return tensors + constants.head_norms * sizes.head_norms + constants.factors * sizes.factors, sizes.kept_scores


def work_bytes(sizes: Sizes, checkpointing: bool, constants: Constants) -> tuple[float, float]:
    """Bytes of (tensors, attention) alive besides what is kept, at the largest moment of the backward pass.

    Where few blocks are trained, little can be allocated ahead, and the last one's MLP has the supervised rows only.
    """
    c = constants
    scores = (1 + c.scores_half * sizes.half) * sizes.scores
    if not checkpointing:
        share, share_inner = (min(n, c.plain_blocks) / c.plain_blocks for n in (sizes.blocks, sizes.mlp_blocks))
        tensors = c.plain_d * sizes.hidden + c.plain_kv * sizes.kv + c.plain_r * sizes.ranks
        # What later blocks have kept is freed by then.
        in_delta = _delta_work(sizes, c) - sizes.kept_behind_delta
        usual = share * tensors + share_inner * c.plain_i * sizes.inner, share * c.plain_s * scores
        return max(usual, (in_delta, 0.0), key=sum)
    ahead = 1 + c.ahead_half * sizes.half
    share, share_inner = (ahead * min(n, c.blocks) / c.blocks for n in (sizes.blocks, sizes.mlp_blocks))
    in_mlp = share * (
        (c.mlp_d + c.mlp_d_a * sizes.adapted) * sizes.hidden + c.mlp_kv * sizes.kv + c.work_r * sizes.ranks
    ) + share_inner * (
        (c.mlp_i + c.mlp_i_a * sizes.adapted_mlp) * sizes.inner
        + (c.experts_d + c.experts_d_a * sizes.adapted_experts) * sizes.experts
    )
    in_attention = ahead * (
        (c.attention_d + c.attention_d_a * sizes.adapted_attention) * sizes.hidden
        + c.attention_kv * sizes.kv
        + c.attention_i * min(1.0, sizes.mlp_blocks) * sizes.inner
        + c.work_r * sizes.ranks
    )
    of_mlp = (in_mlp, share * c.mlp_s * scores)
    of_attention = (in_attention, ahead * c.attention_s * scores)
    in_delta = _delta_work(sizes, c) + c.delta_d * sizes.hidden + c.delta_i * sizes.inner
    of_delta = (in_delta if sizes.delta else 0.0, 0.0)
    return max(of_mlp, of_attention, of_delta, key=sum)


def _delta_work(sizes: Sizes, c: Constants) -> float:
    """Bytes alive in the backward pass of linear attention; 0 without any."""
    found = sizes.delta
    if found is None:
        return 0.0
    of_span = c.delta_keys * found.keys + c.delta_reads * found.reads + c.delta_values * found.values
    return c.delta_projected * found.projected + of_span + c.delta_memory * found.memory


def loss_bytes(sizes: Sizes, backend: Backend, constants: Constants) -> float:
    """Bytes of the loss: scores of a chunk in float32, and the states of the supervised rows with their gradient."""
    if backend == "metal":
        buffers = float(min(_METAL_CHUNK_BUFFERS * sizes.chunks, _METAL_MOST_BUFFERS))
    else:
        buffers = constants.loss_scores + constants.loss_scores_half * sizes.half
    return buffers * sizes.chunk + (constants.loss_rows + 1) * sizes.loss_rows
