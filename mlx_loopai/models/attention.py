"""Replaces the attention function that mlx-lm's model files call: to look at queries and keys, or for speed on CPUs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.causal_attention import causal_attention
from mlx_loopai.models.decoder import softmax_attention
from mlx_loopai.models.shared_opening import OpeningKeys

ATTENTION = "scaled_dot_product_attention"
# What `exchanged` does is seen by the whole process, so threads take turns.
_TURN = threading.RLock()

Look = Callable[[int, mx.array, mx.array, float], None]


@contextmanager
def watched_attention(model: nn.Module, look: Look) -> Iterator[None]:
    """Within it `look(block, queries, keys, scale)` is called for every block with softmax attention, in order.

    queries (B, H, T, D), keys (B, K, T, D), after their rotation. None of the attention's matrices is kept.

    Raises: InputError for an architecture whose blocks call another function.
    """
    blocks = iter([index for index, block in enumerate(model.layers) if softmax_attention(block) is not None])
    module = file_of_blocks(model)
    if module is None or not hasattr(module, ATTENTION):
        name = type(model).__module__ if module is None else module.__name__
        raise InputError(
            tr("{name}: its attention cannot be watched; diagnose a Qwen, Llama or Mistral model", name=name)
        )

    def watching(
        attend: Callable[..., mx.array], queries: mx.array, keys: mx.array, *arguments: Any, **named: Any
    ) -> mx.array:
        look(next(blocks), queries, keys, float(named["scale"]))
        return attend(queries, keys, *arguments, **named)

    with exchanged(module, ATTENTION, watching):
        yield


@contextmanager
def attending_by_power(model: nn.Module, longer_than: int = 0) -> Iterator[None]:
    """Inside, plain causal attention in float32 on a CPU goes to `causal_attention`; other calls are unchanged.

    longer_than: rows of up to so many tokens are left to MLX too.
    """
    module = file_of_blocks(model)
    if module is None or not hasattr(module, ATTENTION) or mx.default_device() != mx.Device(mx.cpu):
        yield
        return

    def attending(
        attend: Callable[..., mx.array],
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        *arguments: Any,
        **named: Any,
    ) -> mx.array:
        is_plain = not arguments and named.keys() == {"cache", "scale", "mask"}
        is_plain = is_plain and (named["cache"] is None or isinstance(named["cache"], OpeningKeys))
        is_ours = is_plain and isinstance(named["mask"], str) and queries.dtype == mx.float32
        if is_ours and keys.shape[2] > longer_than:
            return causal_attention(queries, keys, values, named["scale"])
        return attend(queries, keys, values, *arguments, **named)

    with exchanged(module, ATTENTION, attending):
        yield


def file_of_blocks(model: nn.Module) -> ModuleType | None:
    """The module of the first block with softmax attention; None without any."""
    attentions = map(softmax_attention, model.layers)
    found = next((attention for attention in attentions if attention is not None), None)
    return None if found is None else sys.modules[type(found).__module__]


@contextmanager
def exchanged(module: ModuleType, name: str, function: Callable[..., mx.array]) -> Iterator[None]:
    """Within it `module` calls `function` in place of its own one of that `name`, which `function` gets first."""
    with _TURN:
        usual = getattr(module, name)
        setattr(module, name, partial(function, usual))
        try:
            yield
        finally:
            setattr(module, name, usual)
