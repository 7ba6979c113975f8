"""Causal attention with a backward pass of its own, for CPUs: there MLX has no fused kernel, and slow exponentials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import mlx.core as mx

from mlx_loopai.models.exponentials import power_of_two
from mlx_loopai.models.pass_sizes import ATTENTION_SPAN, LONGEST_KEPT

# Queries are cut into spans, and a span computes no scores for later keys: with two spans a quarter is left out.
_SPANS = 2
# Shorter spans cost more in operations than they leave out.
_SMALLEST_SPAN = 32


def causal_attention(queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
    """softmax(scale Q K^T) V (B, H, Q, D) under a causal mask, in float32.

    queries (B, H, Q, D), keys and values (B, K, T, D), H a multiple of K; the queries are those of the last Q of T
    tokens. The query heads that share a key head are
    rows of one matrix, so that one product sums over them. Up to `LONGEST_KEPT` tokens the probabilities are kept for
    the backward pass, since computing them again would cost their exponentials again.

    Source of the longer rows' way: FlashAttention, 2205.14135 (the logarithm of each row's sum is kept, the backward
    pass computes the probabilities from it); here a span of queries meets all of its keys at once.
    """
    batch, heads, tokens, _ = queries.shape
    groups = (batch, keys.shape[1], heads // keys.shape[1])
    before = keys.shape[2] - tokens
    is_long = keys.shape[2] > LONGEST_KEPT
    spans = _spans(tokens, is_long)

    def forward(queries: mx.array, keys: mx.array, values: mx.array) -> tuple[mx.array, ...]:
        queries = queries.reshape(*groups, *queries.shape[2:])
        outputs: list[mx.array] = []
        kept: list[mx.array] = []
        for begin, end in spans:
            asked = queries[..., begin:end, :]
            if is_long and outputs:  # one span at a time
                (asked,) = mx.depends([asked], [outputs[-1]])
            seen = before + end
            scores = _scores(asked, keys[..., :seen, :], before + begin, scale)
            share, log_sum = _shares(scores)
            outputs.append((_rows(share) @ values[..., :seen, :]).reshape(batch, heads, end - begin, -1))
            kept.append(log_sum if is_long else share)
        return (mx.concatenate(outputs, axis=2), *kept)

    attend = mx.custom_function(forward)

    @attend.vjp
    def backward(
        primals: Sequence[mx.array], cotangents: Sequence[mx.array], outputs: Sequence[mx.array]
    ) -> tuple[mx.array, ...]:
        queries, keys, values = primals
        queries, pulled = (each.reshape(*groups, *each.shape[2:]) for each in (queries, cotangents[0]))
        of_queries: list[mx.array] = []
        of_keys, of_values = mx.zeros(()), mx.zeros(())
        for (begin, end), share in zip(spans, outputs[1:], strict=True):
            asked, pull, seen = queries[..., begin:end, :], _rows(pulled[..., begin:end, :]), before + end
            if is_long:
                asked, pull = mx.depends([asked, pull], [of_keys, of_values, *of_queries[-1:]])
                share = power_of_two(_scores(asked, keys[..., :seen, :], before + begin, scale) - share)
            moved = (pull @ mx.swapaxes(values[..., :seen, :], -1, -2)).reshape(share.shape)
            of_scores = _rows(scale * share * (moved - (moved * share).sum(axis=-1, keepdims=True)))
            of_queries.append((of_scores @ keys[..., :seen, :]).reshape(batch, heads, end - begin, -1))
            of_keys = _longer(of_keys, seen) + mx.swapaxes(of_scores, -1, -2) @ _rows(asked)
            of_values = _longer(of_values, seen) + mx.swapaxes(_rows(share), -1, -2) @ pull
        return mx.concatenate(of_queries, axis=2), of_keys, of_values

    found: mx.array = attend(queries, keys, values)[0]
    return found


def _spans(tokens: int, is_long: bool) -> list[tuple[int, int]]:
    """(first, end) of each span of queries, in order."""
    if is_long:
        return [(begin, min(tokens, begin + ATTENTION_SPAN)) for begin in range(0, tokens, ATTENTION_SPAN)]
    count = _SPANS if tokens >= _SPANS * _SMALLEST_SPAN else 1
    return list(pairwise(tokens * number // count for number in range(count + 1)))


def _scores(queries: mx.array, keys: mx.array, begin: int, scale: float) -> mx.array:
    """log2(e) scale Q K^T (B, K, R, Q, T), of queries (B, K, R, Q, D) from place `begin` on and keys (B, K, T, D) from
    0 on; minus infinity for keys that a query may not see."""
    rows, columns = queries.shape[-2], keys.shape[-2]
    scores = (_rows(queries) @ mx.swapaxes(keys, -1, -2)).reshape(*queries.shape[:-1], columns)
    seen = mx.arange(begin, begin + rows)[:, None] >= mx.arange(columns)
    return mx.where(seen, scale * math.log2(math.e) * scores, -math.inf)


def _shares(scores: mx.array) -> tuple[mx.array, mx.array]:
    """Softmax over the last axis, to the base 2, and the logarithm to that base of its sum."""
    largest = scores.max(axis=-1, keepdims=True)
    exponent = power_of_two(scores - largest)
    total = exponent.sum(axis=-1, keepdims=True)
    return exponent / total, largest + mx.log2(total)


def _rows(heads: mx.array) -> mx.array:
    """(B, K, R, T, X) -> (B, K, R T, X)."""
    return heads.reshape(*heads.shape[:2], -1, heads.shape[-1])


def _longer(gradient: mx.array, tokens: int) -> mx.array:
    """A gradient (B, K, T, D) padded with zeros to `tokens` tokens; a scalar 0 stays as it is."""
    missing = tokens - gradient.shape[2] if gradient.ndim else 0
    return mx.pad(gradient, [(0, 0), (0, 0), (0, missing), (0, 0)]) if missing else gradient
