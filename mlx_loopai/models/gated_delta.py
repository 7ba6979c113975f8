"""Qwen3.5's linear attention for training: the gated delta rule with matrix products instead of a loop over tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.models.exponentials import exp, silu
from mlx_loopai.models.pass_sizes import CHUNK_TOKENS, SPAN_TOKENS

# A chunk has a power of two of tokens, since `_inverse` halves it again and again.
_SMALLEST_CHUNK = 16
_NORM_EPS = 1e-6


def linear_attention(layer: nn.Module, x: mx.array) -> mx.array:
    """What mlx-lm's `GatedDeltaNet` computes without a cache: x (B, T, D) -> (B, T, D).

    For the backward pass only the outputs of the layer's projections are kept, and the memory once every `SPAN_TOKENS`
    tokens. Everything between the projections is computed again, span by span, in float32. Rows that are padded on the
    right need no mask, since no token sees later ones.
    """
    heads = _Heads(
        keys=layer.num_k_heads,
        values=layer.num_v_heads,
        key_size=layer.head_k_dim,
        value_size=layer.head_v_dim,
        epsilon=layer.layer_norm_epsilon,
    )
    weights = (layer.conv1d.weight, layer.A_log, layer.dt_bias, layer.norm.weight)
    projected = (layer.in_proj_qkv(x), layer.in_proj_z(x), layer.in_proj_b(x), layer.in_proj_a(x))
    ends = list(range(SPAN_TOKENS, x.shape[1], SPAN_TOKENS))
    before = layer.conv1d.weight.shape[1] - 1
    tail = mx.zeros((len(x), before, projected[0].shape[-1]), projected[0].dtype)
    memory = mx.zeros((len(x), heads.values, heads.key_size, heads.value_size))
    run = mx.checkpoint(partial(_span, heads))
    found = []
    for qkv, *gates in zip(*(mx.split(each, ends, axis=1) for each in projected), strict=True):
        mixed, memory = run(mx.concatenate([tail, qkv], axis=1), *gates, *weights, memory)
        tail = qkv[:, -before:]
        found.append(mixed)
    return layer.out_proj(mx.concatenate(found, axis=1))


@dataclass(frozen=True)
class _Heads:
    """How a layer's projections fall into heads: `keys` for queries and keys, `values` for values."""

    keys: int
    values: int
    key_size: int
    value_size: int
    epsilon: float


def _span(
    heads: _Heads, qkv: mx.array, z: mx.array, b: mx.array, a: mx.array, *weights_and_memory: mx.array
) -> tuple[mx.array, mx.array]:
    """(the input of out_proj (B, T, H D_v) in the dtype of `qkv`, the memory (B, H, D_k, D_v) after the span).

    qkv (B, T + the convolution's reach backwards, 2 K D_k + H D_v), z (B, T, H D_v), b and a (B, T, H).
    """
    *weights, memory = weights_and_memory
    kernel, a_log, dt_bias, norm = (weight.astype(mx.float32) for weight in weights)
    keys = heads.keys * heads.key_size
    mixed = silu(_convolution(qkv.astype(mx.float32), kernel))
    q, k, v = (
        part.reshape(*part.shape[:2], -1, size)
        for part, size in zip(
            mx.split(mixed, [keys, 2 * keys], axis=-1),
            (heads.key_size, heads.key_size, heads.value_size),
            strict=True,
        )
    )
    log_decay = -mx.exp(a_log) * nn.softplus(a.astype(mx.float32) + dt_bias)
    beta = mx.sigmoid(b.astype(mx.float32))
    y, memory = gated_delta_rule(heads.key_size**-0.5 * _unit(q), _unit(k), v, log_decay, beta, memory)
    gate = silu(z.astype(mx.float32)).reshape(y.shape)
    return (mx.fast.rms_norm(y, norm, heads.epsilon) * gate).reshape(z.shape).astype(qkv.dtype), memory


def _convolution(x: mx.array, kernel: mx.array) -> mx.array:
    """A convolution of each channel alone: x (B, T + W - 1, C), kernel (C, W, 1) as in `nn.Conv1d` -> (B, T, C)."""
    width = kernel.shape[1]
    tokens = x.shape[1] - width + 1
    return sum(x[:, at : at + tokens] * kernel[:, at, 0] for at in range(width))


def _unit(x: mx.array) -> mx.array:
    return x * mx.rsqrt(mx.square(x).sum(axis=-1, keepdims=True) + _NORM_EPS)


def gated_delta_rule(
    q: mx.array, k: mx.array, v: mx.array, log_decay: mx.array, beta: mx.array, memory: mx.array
) -> tuple[mx.array, mx.array]:
    """(the answer of a memory S to the query of each token (B, T, H, D_v), the memory (B, H, D_k, D_v) after the last).

    At each token: S <- exp(log_decay) S; then S <- S + beta k (v - S^T k)^T; then the answer is S^T q. All float32:
    q, k (B, T, K, D_k), v (B, T, H, D_v), log_decay and beta (B, T, H), memory (B, H, D_k, D_v). Head h of v has the
    query and the key h // (H / K).

    Within a chunk all tokens are computed at once; only the memory passes from chunk to chunk.

    Source: Gated DeltaNet (arXiv 2412.06464, section 3.3), whose WY form is that of arXiv 2406.06484 (section 3.2).
    Unlike the papers we sum the logarithms of the decay separately for each pair of tokens. A difference of two sums
    from the start of the chunk would lose small terms that follow a large one.
    """
    batch, tokens, heads, size = v.shape
    key_heads, chunk = k.shape[2], _chunk_tokens(tokens)
    q, k, v, log_decay, beta = (_in_chunks(each, key_heads, chunk) for each in (q, k, v, log_decay, beta))
    decay = _decay_between(log_decay)
    since_start = mx.exp(mx.cumsum(log_decay, axis=-2))
    written = beta * k
    # Each token's update as if the memory were empty at the chunk's start, and how it depends on the memory there.
    solve = _inverse(mx.tril((written @ _t(k)) * decay, -1))
    updates, memories = _along_chunks(
        solve @ (beta * v),
        solve @ (since_start * written),
        k * _t(decay[..., -1:, :]),
        since_start[..., -1:, :],
        memory.reshape(batch, key_heads, -1, *memory.shape[2:]),
    )
    answers = (since_start * q) @ memories[:-1] + ((q @ _t(k)) * decay) @ updates
    # (N, B, K, H / K, C, D_v) -> (B, T, H, D_v)
    rows = answers.transpose(1, 0, 4, 2, 3, 5).reshape(batch, -1, heads, size)
    return rows[:, :tokens], memories[-1].reshape(memory.shape)


def _chunk_tokens(tokens: int) -> int:
    """A power of two: short rows are not padded to a whole chunk."""
    chunk = _SMALLEST_CHUNK
    while chunk < min(tokens, CHUNK_TOKENS):
        chunk *= 2
    return chunk


def _in_chunks(x: mx.array, key_heads: int, chunk: int) -> mx.array:
    """(B, T, heads[, D]) -> (N, B, K, heads / K, C, D or 1); the zeros that fill the last chunk change nothing."""
    batch, tokens, heads = x.shape[:3]
    x = x.reshape(batch, tokens, key_heads, heads // key_heads, -1)
    x = mx.pad(x, [(0, 0), (0, -tokens % chunk), (0, 0), (0, 0), (0, 0)])
    return x.reshape(batch, -1, chunk, *x.shape[2:]).transpose(1, 0, 3, 4, 2, 5)


def _decay_between(log_decay: mx.array) -> mx.array:
    """(..., C, 1) -> (..., C, C): what is left at token i of what was written at token j, 0 where j > i."""
    tokens = log_decay.shape[-2]
    between = mx.cumsum(mx.where(mx.tri(tokens, k=-1, dtype=mx.bool_), log_decay, 0), axis=-2)
    return exp(mx.where(mx.tri(tokens, dtype=mx.bool_), between, -mx.inf))


@mx.custom_function
def _inverse(lower: mx.array) -> mx.array:
    """(I + lower)^-1 for strictly lower triangular matrices (..., C, C), C a power of two.

    Block by block, which is as exact as substitution row by row. A series of powers is not: where keys repeat, they
    grow beyond what float32 holds before they cancel.
    """
    half = lower.shape[-1] // 2
    if half == 1:
        return mx.eye(2) - lower
    first, second = _inverse(mx.stack([lower[..., :half, :half], lower[..., half:, half:]]))
    corner = -(second @ lower[..., half:, :half] @ first)
    above = mx.concatenate([first, mx.zeros_like(first)], axis=-1)
    return mx.concatenate([above, mx.concatenate([corner, second], axis=-1)], axis=-2)


@_inverse.vjp
def _inverse_pulled(_: mx.array, cotangent: mx.array, found: mx.array) -> mx.array:
    return -(_t(found) @ cotangent @ _t(found))


@mx.custom_function
def _along_chunks(
    updates: mx.array, reads: mx.array, writes: mx.array, decay: mx.array, memory: mx.array
) -> tuple[mx.array, mx.array]:
    """(the updates less what the memory holds already, the memory before each chunk and after the last (N + 1, ...)).

    updates (N, ..., C, D_v); reads and writes (N, ..., C, D_k): how a token's update depends on the memory, and what is
    left of its key at the chunk's end; decay (N, ..., 1, 1): what is left of the memory there. memory (..., D_k, D_v).
    """
    found, memories = [], [memory]
    for chunk in range(updates.shape[0]):
        found.append(updates[chunk] - reads[chunk] @ memories[-1])
        memories.append(decay[chunk] * memories[-1] + _t(writes[chunk]) @ found[-1])
    return mx.stack(found), mx.stack(memories)


@_along_chunks.vjp
def _along_chunks_pulled(
    primals: Sequence[mx.array], cotangents: Sequence[mx.array], outputs: Sequence[mx.array]
) -> tuple[mx.array, ...]:
    """Written by hand: for every chunk, autograd would add up a gradient as long as all chunks together."""
    _, reads, writes, decay, _ = primals
    found, memories = outputs
    of_updates, of_memories = [], [cotangents[1][-1]]
    for chunk in reversed(range(found.shape[0])):
        of_updates.append(cotangents[0][chunk] + writes[chunk] @ of_memories[-1])
        pulled = decay[chunk] * of_memories[-1] - _t(reads[chunk]) @ of_updates[-1]
        of_memories.append(cotangents[1][chunk] + pulled)
    of_update, behind = mx.stack(of_updates[::-1]), mx.stack(of_memories[-2::-1])
    before = memories[:-1]
    of_decay = (before * behind).sum(axis=(-2, -1), keepdims=True)
    return of_update, -(of_update @ _t(before)), found @ _t(behind), of_decay, of_memories[-1]


def _t(x: mx.array) -> mx.array:
    return x.swapaxes(-1, -2)
