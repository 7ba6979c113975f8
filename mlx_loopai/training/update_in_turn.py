"""Updates the parameters one vector after the other: for a whole model, that needs extra memory for one matrix only."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import mlx.optimizers as optimizers

Vectors = dict[str, mx.array]
# As in mlx.optimizers.clip_grad_norm.
_CLIP_EPS = 1e-6


class UpdateInTurn:
    """Applies `optimizer` to vectors one by one, the old one freed before the next is touched.

    The numbers are those of an update of all vectors at once. That update keeps every old and new vector, its moments
    and its scaled gradient until the last one is done: for a whole model twice the memory of all that is trained.
    """

    def __init__(self, optimizer: optimizers.Optimizer, clip: float, compiled: bool) -> None:
        self._optimizer = optimizer
        self._clip = clip
        self._single = mx.compile(self._update) if compiled else self._update

    def norm(self, gradient: Vectors, pull: Vectors, tokens: float) -> float:
        """Norm of gradient / tokens + pull over all vectors. pull: the penalty's gradient, or empty."""
        total = mx.zeros(())
        for name, array in gradient.items():
            total = total + mx.square(_whole(_parts(name, array, pull), tokens)).sum()
            mx.eval(total)
        return math.sqrt(total.item())

    def __call__(
        self, gradient: Vectors, pull: Vectors, parameters: Vectors, numbers: tuple[float, float, float]
    ) -> Any:
        """Yields {name: updated vector}, one at a time; each is taken out of the three dictionaries that hold it.

        numbers: supervised tokens, learning rate, and the norm of the gradient. The caller must drop the old vector
        before it asks for the next.
        """
        tokens, learning_rate, norm = numbers
        factor = min(1.0, self._clip / (norm + _CLIP_EPS)) if self._clip else 1.0
        state, self._optimizer.state = self._optimizer.state, {}
        begun = {"step": state.pop("step"), "learning_rate": mx.array(learning_rate)}
        state.pop("learning_rate", None)
        after: dict[str, Any] = {}
        for name in list(gradient):
            parts = _parts(name, gradient.pop(name), pull)
            pull.pop(name, None)
            done, after[name], step = self._single(
                parts, parameters.pop(name), state.pop(name), (mx.array(tokens), mx.array(factor), begun)
            )
            mx.eval(done, after[name], step)
            parts.clear()
            yield {name: done}
        self._optimizer.state = {"step": step, "learning_rate": begun["learning_rate"], **after}

    def _update(
        self, parts: list[mx.array], parameter: mx.array, state: Any, numbers: tuple[mx.array, mx.array, Any]
    ) -> tuple[mx.array, Any, mx.array]:
        tokens, factor, begun = numbers
        self._optimizer.state = {**begun, "vector": dict(state)}
        gradient = _whole(parts, tokens) * factor
        changed = self._optimizer.apply_gradients({"vector": gradient}, {"vector": parameter})
        return changed["vector"], self._optimizer.state["vector"], self._optimizer.state["step"]


def _parts(name: str, gradient: mx.array, pull: Vectors) -> list[mx.array]:
    return [gradient, pull[name]] if name in pull else [gradient]


def _whole(parts: list[mx.array], tokens: float | mx.array) -> mx.array:
    mean = parts[0] / tokens
    return mean if len(parts) == 1 else mean + parts[1]
