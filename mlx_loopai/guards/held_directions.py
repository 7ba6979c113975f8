"""Keeps an adapter's update off the largest singular directions of the weights that it changes."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_loopai.models.lora import dense_weight, lora_modules

_Floats = npt.NDArray[np.float32]


def held_directions(weight: _Floats, energy: float) -> tuple[_Floats, _Floats]:
    """(left (D_out, k), right (D_in, k)): the largest singular directions of `weight` (D_out, D_in).

    k is the least number of them that holds the share `energy` of the sum of all squared singular values.
    """
    left, values, right = np.linalg.svd(weight, full_matrices=False)
    shares = np.cumsum(values.astype(np.float64) ** 2)
    k = int(np.searchsorted(shares, energy * shares[-1])) + 1
    return left[:, :k], right[:k].T


class HeldDirections:
    """Takes out of every low-rank update of `model` what acts from or into a held direction of its weight.

    With U and V the held left and right directions, an update D becomes (1 - U U^T) D (1 - V V^T): the weight's largest
    singular values and vectors stay those of the base. A LoRA's factors are projected on their own, so the update keeps
    its rank; this is done after every optimizer step, since Adam's step leaves a subspace even where the gradient lies
    in it.

    Source: Sculpting Subspaces (OSFT), which trains whole matrices in that complement; OPLoRA (arXiv 2510.13003) for
    low-rank updates.
    """

    def __init__(self, model: nn.Module, energy: float) -> None:
        self._held = []
        for layer in lora_modules(model).values():
            weight = np.array(dense_weight(layer.linear).astype(mx.float32))
            left, right = held_directions(weight, energy)
            self._held.append((layer, mx.array(left), mx.array(right)))

    def __call__(self) -> None:
        """Project the update of every layer."""
        for layer, left, right in self._held:
            layer.lora_a = layer.lora_a - right @ (right.T @ layer.lora_a)
            layer.lora_b = layer.lora_b - (layer.lora_b @ left) @ left.T
        mx.eval([(layer.lora_a, layer.lora_b) for layer, _, _ in self._held])
