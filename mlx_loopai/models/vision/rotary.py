"""Rotary positions of a text model while it reads a prompt with pictures; for text it is the plain rotation itself.

mlx-lm's attention calls its `rope` with the number of tokens before. After a picture, a token's position is not that
number. `Rotary` takes the place of `rope` and looks the position up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.models.decoder import softmax_attention


class Places:
    """The positions that a model's `Rotary` modules look up; one object for all of them, since all rotate alike."""

    def __init__(self, axes: Sequence[int], base: float) -> None:
        size = 2 * len(axes)
        self._axes = mx.array(list(axes))
        self._frequencies = 1 / mx.power(base, mx.arange(0, size, 2, dtype=mx.float32) / size)
        self._angles: mx.array | None = None
        self._next = mx.array(0)
        # Another thread may use them, and MLX evaluates an array in the thread that made it.
        mx.eval(self._axes, self._frequencies, self._next)

    @contextmanager
    def at(self, positions: mx.array) -> Iterator[None]:
        """Within it the tokens from the first on have `positions` (3, B, T), and later ones go on from the largest."""
        before = self._angles, self._next
        self._angles, self._next = self._angles_of(positions), positions.max(axis=(0, 2)) + 1
        try:
            yield
        finally:
            self._angles, self._next = before

    def turned(self, plain: nn.Module, x: mx.array, offset: int) -> mx.array:
        """x (B, H, T, size), whose first token has `offset` before it."""
        if self._angles is None:
            return plain(x, offset=offset)
        known, tokens = self._angles.shape[1], x.shape[2]
        angles = self._angles[:, offset : offset + tokens]
        if angles.shape[1] < tokens:
            more = mx.arange(max(offset, known), offset + tokens) - known
            later = self._next[:, None] + more
            angles = mx.concatenate([angles, self._angles_of(mx.broadcast_to(later, (3, *later.shape)))], axis=1)
        return _turned(x, angles)

    def _angles_of(self, positions: mx.array) -> mx.array:
        """(B, T, size / 2)."""
        by_frequency = mx.take(positions.astype(mx.float32), self._axes, axis=0)
        return by_frequency.transpose(1, 2, 0) * self._frequencies


class Rotary(nn.Module):
    """The rotation of one attention: `plain`, unless the model is reading pictures."""

    def __init__(self, plain: nn.Module, places: Places) -> None:
        super().__init__()
        self.plain = plain
        self._places = places

    def __call__(self, x: mx.array, offset: int = 0) -> mx.array:
        return self._places.turned(self.plain, x, offset)


def install_rotary(model: nn.Module, axes: Sequence[int]) -> None:
    """Let the attention of `model` look its positions up. `axes`: which of the three turns each frequency."""
    attentions = [found for block in model.layers if (found := softmax_attention(block)) is not None]
    places = Places(axes, attentions[0].rope.base)
    for attention in attentions:
        attention.rope = Rotary(attention.rope, places)


def places_of(model: nn.Module) -> Places | None:
    """What `install_rotary` put into `model`; None where it did not."""
    attention = softmax_attention(model.layers[0])
    rope = None if attention is None else attention.get("rope")
    return rope._places if isinstance(rope, Rotary) else None


def _turned(x: mx.array, angles: mx.array) -> mx.array:
    """x (B, H, T, size) turned by angles (B, T, size / 2), computed in float32."""
    cosines, sines = mx.cos(angles)[:, None], mx.sin(angles)[:, None]
    first, second = mx.split(x.astype(mx.float32), 2, axis=-1)
    turned = mx.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)
    return turned.astype(x.dtype)
