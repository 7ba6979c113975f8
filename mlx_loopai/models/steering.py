"""Makes some tokens less likely by scaling rows of a loaded model's head, for as long as it is tried."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_loopai.models.decoder import head_layer


@contextmanager
def steered_head(model: nn.Module, factors: npt.NDArray[np.float32]) -> Iterator[None]:
    """Inside, each row of the head is multiplied by its entry of `factors` (V,); the embedding is never changed.

    The model computes what one exported with the same factors does: a tied head becomes a matrix of its own. A
    quantised head is dense inside, so that its rows can be multiplied exactly.
    """
    owner, name = (model.model, "embed_out") if "embed_out" in model.model else (model, "lm_head")
    tied = name not in owner
    old = head_layer(model)
    owner[name] = _dense(old, factors)
    if tied:
        model.args.tie_word_embeddings = False
    try:
        yield
    finally:
        if tied:
            model.args.tie_word_embeddings = True
            owner.pop(name)
        else:
            owner[name] = old


def _dense(head: nn.Module, factors: npt.NDArray[np.float32]) -> nn.Linear:
    """The head (a linear layer or an embedding, dense or quantised) as a linear layer with scaled rows."""
    weight = head.weight
    if "scales" in head:
        weight = mx.dequantize(weight, head.scales, head.get("biases"), head.group_size, head.bits, head.mode)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight = weight * mx.array(factors)[: len(weight), None].astype(weight.dtype)
    mx.eval(linear.weight)
    return linear
