"""How gradients flow into an adapter: the norm per matrix, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten

_FAR = 1e3  # a module stands out when its gradient is this many times smaller or larger than the median of all


@dataclass(frozen=True)
class Flow:
    """Gradient norms of an adapter. norms (S, M): of M adapted modules in S batches, both factors together.

    vanishing: modules whose median norm is below a thousandth of the median of all modules. exploding: those above a
    thousand times that median, or with a gradient that is not finite.
    """

    modules: tuple[str, ...]
    norms: npt.NDArray[np.float32]
    vanishing: tuple[str, ...]
    exploding: tuple[str, ...]


def gradient_flow(model: nn.Module, loss: Callable[[Any], mx.array], batches: Sequence[Any]) -> Flow:
    """Gradient norms of the model's trainable parameters, without changing them; `loss(batch)` is a scalar.

    Both factors count as one module, since in a new adapter B = 0, so that A has no gradient yet.
    """
    rows = []
    names: list[str] = []
    for batch in batches:
        _, gradients = nn.value_and_grad(model, lambda batch=batch: loss(batch))()
        squares: dict[str, float] = {}
        for name, gradient in tree_flatten(gradients):
            module = name.rpartition(".")[0]
            squares[module] = squares.get(module, 0.0) + mx.square(gradient.astype(mx.float32)).sum().item()
        names = sorted(squares)
        rows.append([squares[name] ** 0.5 for name in names])
    norms = np.array(rows, np.float32).reshape(len(rows), len(names))
    typical = np.median(norms, axis=0) if len(rows) else np.zeros(0)
    middle = float(np.median(typical[np.isfinite(typical)])) if np.isfinite(typical).any() else 0.0
    small = [name for name, norm in zip(names, typical, strict=True) if norm < middle / _FAR]
    large = [name for name, norm in zip(names, typical, strict=True) if not norm <= middle * _FAR]
    return Flow(tuple(names), norms, tuple(small), tuple(large))
