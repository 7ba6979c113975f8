"""A pass over a model without gradients, made cheaper on a CPU: fast exponentials, and a common opening met once.

mlx-lm's model files call `scaled_dot_product_attention` and `swiglu`. On a CPU both spend most of their time on scalar
exponentials, and attention reads the keys of an opening that all rows share, such as a system prompt, once a row.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import BatchKVCache

from mlx_loopai.models.attention import ATTENTION, exchanged, file_of_blocks
from mlx_loopai.models.exponentials import power_of_two, silu

_GATED = "swiglu"
# Fewer tokens are not worth cutting every row's keys in two.
LEAST_OPENING = 32
_HIDDEN = -1e30
# Queries that are looked at together: more scores would not stay in a core's cache.
_SPAN = 32


@dataclass(frozen=True)
class Opening:
    """Tokens that all rows of a batch begin with, in caches that pad on the left.

    tokens: how many. padding: of each row.
    """

    tokens: int
    padding: tuple[int, ...]

    def own_keys(self, mask: mx.array) -> mx.array:
        """The part of a mask (B, 1, Q, T) for each row's own keys (B, 1, Q, T - first): its opening is cut out."""
        ends = mx.array(self.padding)[:, None, None, None] + self.tokens
        return mask[..., self.first_own :] & (mx.arange(self.first_own, mask.shape[-1]) >= ends)

    @property
    def first_own(self) -> int:
        """The first place of the caches at which a row has a key of its own."""
        return min(self.padding) + self.tokens


def opening_of_rows(cache: Sequence[Any], n_shared: int) -> Opening | None:
    """What the rows of a batch begin with, `n_shared` tokens in its `cache`; None where a pass cannot gain by it."""
    if n_shared < LEAST_OPENING or not cache or not _is_on_cpu():
        return None
    # Attention with a window, linear attention and prompts with pictures have caches of other classes.
    if not all(type(layer) is BatchKVCache for layer in cache):
        return None
    padding = tuple(cache[0].left_padding.tolist())
    return Opening(n_shared, padding) if len(padding) > 1 else None


@contextmanager
def answering(model: nn.Module, opening: Opening | None = None) -> Iterator[None]:
    """Inside, on a CPU, passes of `model` in float32 are computed as this file says; others are unchanged.

    The results are the same up to rounding. opening: what the rows of the batch begin with.
    """
    with ExitStack() as stack:
        if _is_on_cpu():
            places = (
                (file_of_blocks(model), ATTENTION, partial(_attend, opening)),
                (sys.modules[type(model.layers[0]["mlp"]).__module__], _GATED, _gated),
            )
            for file, name, function in places:
                if file is not None and hasattr(file, name):
                    stack.enter_context(exchanged(file, name, function))
        yield


def _is_on_cpu() -> bool:
    return bool(mx.default_device() == mx.Device(mx.cpu))


def _gated(usual: Callable[..., mx.array], gate: mx.array, up: mx.array) -> mx.array:
    return silu(gate) * up if gate.dtype == mx.float32 else usual(gate, up)


def _attend(
    opening: Opening | None,
    usual: Callable[..., mx.array],
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    *arguments: Any,
    **named: Any,
) -> mx.array:
    mask, cache = named.get("mask"), named.get("cache")
    is_plain = not arguments and named.keys() == {"cache", "scale", "mask"} and queries.dtype == mx.float32
    is_bool = mask is None or isinstance(mask, str) or mask.dtype == mx.bool_
    if not is_plain or not is_bool or hasattr(cache, "bits"):
        return usual(queries, keys, values, *arguments, **named)
    n_asked, scale = queries.shape[2], named["scale"]
    if mask is None or (n_asked == 1 and opening is None):
        return masked_attention(queries, keys, values, scale, mask)
    # Such a cache's own mask is causal, so that a span of queries sees no later keys.
    if not isinstance(mask, str) and type(cache) is not BatchKVCache:
        return masked_attention(queries, keys, values, scale, mask)
    before = keys.shape[2] - n_asked
    parts = []
    for begin in range(0, n_asked, _SPAN):
        end = min(n_asked, begin + _SPAN)
        part = queries[:, :, begin:end], keys[:, :, : before + end], values[:, :, : before + end], scale
        seen = _causal(before + begin, before + end)
        if not isinstance(mask, str):
            seen = mask[:, :, begin:end, : before + end]
        parts.append(masked_attention(*part, seen) if opening is None else attention_behind(opening, *part, seen))
    return mx.concatenate(parts, axis=2)


def _causal(begin: int, end: int) -> mx.array:
    """The mask (1, 1, Q, T) of queries at places from `begin` to `end`."""
    return (mx.arange(begin, end)[:, None] >= mx.arange(end))[None, None]


def masked_attention(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: mx.array | None
) -> mx.array:
    """softmax(scale Q K^T) V (B, H, Q, D), where `mask` (B or 1, 1, Q, T) allows.

    queries (B, H, Q, D), keys and values (B, K, T, D), H a multiple of K.
    """
    asked = _by_key_head(queries, keys, scale)
    scores = _seen(asked @ keys.swapaxes(-1, -2), mask, queries)
    exponents = power_of_two(scores - scores.max(axis=-1, keepdims=True))
    return (exponents @ values / exponents.sum(axis=-1, keepdims=True)).reshape(*queries.shape[:-1], -1)


def attention_behind(
    opening: Opening, queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: mx.array
) -> mx.array:
    """`masked_attention` of rows with a common opening, whose keys are taken from the first row for all of them.

    So one product of a matrix with all rows' queries stands for a product a row, which reads as many keys for few
    queries. Source: Hydragen, 2402.05099; here both parts have one peak, so that nothing is rescaled.
    """
    place = slice(opening.padding[0], opening.padding[0] + opening.tokens)
    first_keys, first_values = keys[0, :, place], values[0, :, place]
    own_keys, own_values = keys[:, :, opening.first_own :], values[:, :, opening.first_own :]
    asked = _by_key_head(queries, keys, scale)
    own = _seen(asked @ own_keys.swapaxes(-1, -2), opening.own_keys(mask), queries)
    n_rows, n_heads, n_asked, _ = asked.shape

    def together(rows: mx.array) -> mx.array:
        """(B, K, R Q, X) -> (K, B R Q, X)"""
        return rows.swapaxes(0, 1).reshape(n_heads, n_rows * n_asked, -1)

    def apart(rows: mx.array) -> mx.array:
        return rows.reshape(n_heads, n_rows, n_asked, -1).swapaxes(0, 1)

    first = together(asked) @ first_keys.swapaxes(-1, -2)
    peak = mx.maximum(apart(first.max(axis=-1, keepdims=True)), own.max(axis=-1, keepdims=True))
    first, own = power_of_two(first - together(peak)), power_of_two(own - peak)
    total = apart(first.sum(axis=-1, keepdims=True)) + own.sum(axis=-1, keepdims=True)
    return ((apart(first @ first_values) + own @ own_values) / total).reshape(*queries.shape[:-1], -1)


def _by_key_head(queries: mx.array, keys: mx.array, scale: float) -> mx.array:
    """log2(e) scale Q (B, K, R Q, D): the query heads that share a key head are rows of one matrix."""
    batch, key_heads = keys.shape[:2]
    return (scale * math.log2(math.e) * queries).reshape(batch, key_heads, -1, queries.shape[-1])


def _seen(scores: mx.array, mask: mx.array | None, queries: mx.array) -> mx.array:
    """Scores (B, K, R Q, T) of `queries` (B, H, Q, D), very low where `mask` (B or 1, 1, Q, T) hides a key."""
    if mask is None:
        return scores
    by_query = scores.reshape(*scores.shape[:2], -1, queries.shape[2], scores.shape[-1])
    # Not minus infinity: a padded query may see nothing at all.
    return mx.where(mask[:, :, None], by_query, _HIDDEN).reshape(scores.shape)
