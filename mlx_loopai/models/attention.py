"""Looking at attention while a model runs, without keeping any of its matrices."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.errors import InputError
from mlx_loopai.models.decoder import softmax_attention

_FUNCTION = "scaled_dot_product_attention"

Look = Callable[[int, mx.array, mx.array, float], None]


@contextmanager
def watched_attention(model: nn.Module, look: Look) -> Iterator[None]:
    """Within it `look(block, queries, keys, scale)` is called for every block that attends, in order, rotated and all.

    queries (B, H, T, D), keys (B, K, T, D). mlx-lm's model files call one attention function by name: it is exchanged
    in the file of this model's blocks and put back afterwards.

    Raises: InputError for an architecture whose blocks call another function.
    """
    attending = [index for index, block in enumerate(model.layers) if softmax_attention(block) is not None]
    kind = type(softmax_attention(model.layers[attending[0]]))
    module = sys.modules[kind.__module__]
    attend = getattr(module, _FUNCTION, None)
    if attend is None:
        raise InputError(f"{kind.__module__}: its attention cannot be watched; diagnose a Qwen, Llama or Mistral model")
    blocks = iter(attending)

    def watching(queries: mx.array, keys: mx.array, values: mx.array, *arguments: Any, **named: Any) -> mx.array:
        look(next(blocks), queries, keys, float(named["scale"]))
        found: mx.array = attend(queries, keys, values, *arguments, **named)
        return found

    setattr(module, _FUNCTION, watching)
    try:
        yield
    finally:
        setattr(module, _FUNCTION, attend)
