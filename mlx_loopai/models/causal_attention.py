"""Causal attention with a backward pass of its own, for CPUs: there MLX has no fused kernel, and slow exponentials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import mlx.core as mx

from mlx_loopai.models.exponentials import power_of_two

# Queries are cut into spans, and a span computes no scores for later keys: with two spans a quarter is left out.
_SPANS = 2
# Shorter spans cost more in operations than they leave out.
_SMALLEST_SPAN = 32


def causal_attention(queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
    """softmax(scale Q K^T) V (B, H, T, D) under a causal mask, in float32.

    queries (B, H, T, D), keys and values (B, K, T, D), H a multiple of K. The probabilities are kept for the backward
    pass, since computing them again would cost their exponentials again. The query heads that share a key head are
    rows of one matrix, so that one product sums over them.
    """
    batch, heads, tokens, _ = queries.shape
    groups = (batch, keys.shape[1], heads // keys.shape[1])
    count = _SPANS if tokens >= _SPANS * _SMALLEST_SPAN else 1
    spans = list(pairwise(tokens * number // count for number in range(count + 1)))

    def forward(queries: mx.array, keys: mx.array, values: mx.array) -> tuple[mx.array, ...]:
        queries = queries.reshape(*groups, *queries.shape[2:])
        outputs, kept = [], []
        for begin, end in spans:
            scores = _rows(queries[..., begin:end, :]) @ mx.swapaxes(keys[..., :end, :], -1, -2)
            share = _shares(scores.reshape(*groups, end - begin, end), begin, scale)
            outputs.append((_rows(share) @ values[..., :end, :]).reshape(batch, heads, end - begin, -1))
            kept.append(share)
        return (mx.concatenate(outputs, axis=2), *kept)

    attend = mx.custom_function(forward)

    @attend.vjp
    def backward(
        primals: Sequence[mx.array], cotangents: Sequence[mx.array], outputs: Sequence[mx.array]
    ) -> tuple[mx.array, ...]:
        queries, keys, values = primals
        queries, pulled = (each.reshape(*groups, *each.shape[2:]) for each in (queries, cotangents[0]))
        of_queries, of_keys, of_values = [], mx.zeros(()), mx.zeros(())
        for (begin, end), share in zip(spans, outputs[1:], strict=True):
            pull = _rows(pulled[..., begin:end, :])
            moved = (pull @ mx.swapaxes(values[..., :end, :], -1, -2)).reshape(share.shape)
            of_scores = _rows(scale * share * (moved - (moved * share).sum(axis=-1, keepdims=True)))
            of_queries.append((of_scores @ keys[..., :end, :]).reshape(batch, heads, end - begin, -1))
            of_keys = _longer(of_keys, end) + mx.swapaxes(of_scores, -1, -2) @ _rows(queries[..., begin:end, :])
            of_values = _longer(of_values, end) + mx.swapaxes(_rows(share), -1, -2) @ pull
        return mx.concatenate(of_queries, axis=2), of_keys, of_values

    found: mx.array = attend(queries, keys, values)[0]
    return found


def _shares(scores: mx.array, begin: int, scale: float) -> mx.array:
    """Softmax over the keys that a query may see; scores (..., queries from `begin` on, keys from 0 on)."""
    rows, columns = scores.shape[-2:]
    seen = mx.arange(begin, begin + rows)[:, None] >= mx.arange(columns)
    scores = mx.where(seen, scale * math.log2(math.e) * scores, -math.inf)
    exponent = power_of_two(scores - scores.max(axis=-1, keepdims=True))
    return exponent / exponent.sum(axis=-1, keepdims=True)


def _rows(heads: mx.array) -> mx.array:
    """(B, K, R, T, X) -> (B, K, R T, X)."""
    return heads.reshape(*heads.shape[:2], -1, heads.shape[-1])


def _longer(gradient: mx.array, tokens: int) -> mx.array:
    """A gradient (B, K, T, D) padded with zeros to `tokens` tokens; a scalar 0 stays as it is."""
    missing = tokens - gradient.shape[2] if gradient.ndim else 0
    return mx.pad(gradient, [(0, 0), (0, 0), (0, missing), (0, 0)]) if missing else gradient
