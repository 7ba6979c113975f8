"""`penalty.held_energy`: keeps an adapter's update off the largest singular directions of its weights."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_loopai.language import tr
from mlx_loopai.models.lora import dense_weight, lora_modules
from mlx_loopai.runs.listener import Listener

_Floats = npt.NDArray[np.float32]


def held_directions(weight: _Floats, energy: float) -> tuple[_Floats, _Floats]:
    """(left (D_out, k), right (D_in, k)): the largest singular directions of `weight` (D_out, D_in).

    k is the least number of them that holds the share `energy` of the sum of all squared singular values. They are the
    eigenvectors of the smaller of W W^T and W^T W, in float64, and their images: a sixth of an SVD's time.
    """
    tall = weight.astype(np.float64) if weight.shape[0] >= weight.shape[1] else weight.T.astype(np.float64)
    squares, vectors = np.linalg.eigh(tall.T @ tall)
    squares, vectors = np.maximum(squares[::-1], 0), vectors[:, ::-1]
    shares = np.cumsum(squares)
    k = int(np.searchsorted(shares, energy * shares[-1])) + 1 if shares[-1] > 0 else 0
    short = vectors[:, :k]
    long = (tall @ short) / np.sqrt(squares[:k])
    left, right = (long, short) if tall.shape == weight.shape else (short, long)
    return left.astype(np.float32), right.astype(np.float32)


class HeldDirections:
    """Takes out of every low-rank update of a model what acts from or into a held direction of its weight.

    With U and V the held left and right directions, an update D becomes (1 - U U^T) D (1 - V V^T): the weight's largest
    singular values and vectors stay those of the base. The factors of LoRA are projected on their own, so the update
    keeps its rank. This is done after every optimizer step, since a step of Adam leaves a subspace even where all
    gradients lie in it.

    Source: Sculpting Subspaces (OSFT, Red Hat), which trains whole matrices in that complement; OPLoRA (arXiv
    2510.13003) for low-rank updates. docs/experiments.md says what it does on nano.
    """

    def __init__(self, model: nn.Module, energy: float, listener: Listener) -> None:
        layers = lora_modules(model)
        listener.stage(tr("singular directions"), len(layers))
        self._held = []
        for done, layer in enumerate(layers.values(), 1):
            weight = np.array(dense_weight(layer.linear).astype(mx.float32))
            left, right = held_directions(weight, energy)
            self._held.append((layer, mx.array(left), mx.array(right)))
            listener.advance(done)

    def __call__(self) -> None:
        """Project the update of every layer."""
        for layer, left, right in self._held:
            layer.lora_a = layer.lora_a - right @ (right.T @ layer.lora_a)
            layer.lora_b = layer.lora_b - (layer.lora_b @ left) @ left.T
        mx.eval([(layer.lora_a, layer.lora_b) for layer, _, _ in self._held])
