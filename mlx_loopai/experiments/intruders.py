"""Finds and scales down the intruder dimensions of a trained adapter.

Source: LoRA vs Full Fine-tuning: An Illusion of Equivalence (arXiv 2410.21228).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_unflatten

from mlx_loopai.models.adapters import adapter_arrays
from mlx_loopai.models.lora import LoRALinear, dense_weight, lora_modules

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Intruders:
    """Left directions (D_out, N) and right ones (D_in, N) of a tuned weight with their singular values (N,)."""

    left: _Floats
    values: _Floats
    right: _Floats


def intruders(weight: _Floats, update: _Floats, top: int, epsilon: float) -> Intruders:
    """The intruders among the `top` largest singular directions of `weight` + `update` (both (D_out, D_in)).

    Such a direction is an intruder where the cosine of its left vector with every left vector of `weight` is below
    `epsilon`, in absolute value.
    """
    base = np.linalg.svd(weight, full_matrices=False)[0]
    left, values, right = np.linalg.svd(weight + update, full_matrices=False)
    nearest = np.abs(base.T @ left[:, :top]).max(axis=0)
    chosen = np.flatnonzero(nearest < epsilon)
    return Intruders(left[:, chosen], values[chosen], right[chosen].T)


def found_in(layer: LoRALinear, top: int, epsilon: float) -> Intruders:
    """The intruders of one layer."""
    weight = np.array(dense_weight(layer.linear).astype(mx.float32))
    return intruders(weight, np.array(layer.update_matrix()), top, epsilon)


def count(model: nn.Module, top: int, epsilon: float) -> int:
    """How many intruders all adapted layers of `model` have together."""
    return sum(len(found_in(layer, top, epsilon).values) for layer in lora_modules(model).values())


@dataclass(frozen=True)
class Removal:
    """Which intruders are scaled, and how: to `kept` of what they were; 0: removed.

    whole: the tuned weight's singular value is scaled, as in the paper, so part of the base may go too; its update then
    has a higher rank. Else what the update alone does in the intruder's left direction.
    """

    kept: float
    epsilon: float = 0.5
    top: int = 10
    whole: bool = True


@contextmanager
def removed(model: nn.Module, removal: Removal) -> Iterator[None]:
    """Inside, the intruders of `model` are scaled as `removal` says."""
    before = adapter_arrays(model)
    try:
        for layer in lora_modules(model).values():
            found = found_in(layer, removal.top, removal.epsilon)
            left, right = mx.array(found.left), mx.array(found.right)
            gone = 1 - removal.kept
            if removal.whole:
                values = mx.array(found.values)
                layer.lora_a = mx.concatenate([layer.lora_a, right], axis=1)
                added = -(gone / layer.scale) * values[:, None] * left.T
                layer.lora_b = mx.concatenate([layer.lora_b, added], axis=0)
            else:
                layer.lora_b = layer.lora_b - gone * (layer.lora_b @ left) @ left.T
        yield
    finally:
        model.update(tree_unflatten(list(before.items())))
