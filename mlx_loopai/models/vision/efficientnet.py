"""EfficientNet-Lite0: a small convolutional encoder, 224 x 224 pixels in, 7 x 7 features out.

Source: EfficientNet (arXiv 1905.11946) and TensorFlow's "lite" variants of it: no squeeze-and-excitation, ReLU6, a stem
and a head of fixed width. Tensor names are those of the released PyTorch weights (Apache-2.0).
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

SIDE, ROWS, WIDTH = 224, 7, 1280
MEAN, DEVIATION = 127.0, 128.0
_EPS = 1e-3
# Of each stage: repeats, kernel, stride, expansion, channels out.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _LAST = 32, 320
# Tensors of the released file that are not used: the classifier of ImageNet's classes.
CLASSIFIER = "_fc"


def count_numbers() -> int:
    """How many numbers the network computes with, each norm joined with its convolution."""
    found, into = _STEM * (27 + 1), _STEM
    for repeats, kernel, _, expansion, out in _STAGES:
        for _ in range(repeats):
            inner = into * expansion
            found += (inner * (into + 1) if expansion > 1 else 0) + inner * (kernel**2 + 1) + out * (inner + 1)
            into = out
    return found + WIDTH * (_LAST + 1)


class EfficientNetLite0:
    """The network with fixed weights, each convolution merged with the norm after it."""

    def __init__(self, weights: dict[str, mx.array]) -> None:
        """`weights` by their released names, in PyTorch's order of axes.

        Raises: InputError for a tensor that is missing or of another shape.
        """
        self._weights = weights
        self._stem = self._joined("_conv_stem", "_bn0", (_STEM, 3, 3, 3))
        self._blocks = []
        into, number = _STEM, 0
        for repeats, kernel, stride, expansion, out in _STAGES:
            for repeat in range(repeats):
                self._blocks.append(self._block(number, (into, out), kernel, expansion, stride if repeat == 0 else 1))
                into, number = out, number + 1
        self._head = self._joined("_conv_head", "_bn1", (WIDTH, _LAST, 1, 1))

    def __call__(self, pixels: mx.array) -> mx.array:
        """Pixels (H, W, 3) from 0 to 255 -> features (H / 32, W / 32, 1280)."""
        states = nn.relu6(_convolved((pixels.astype(mx.float32) - MEAN)[None] / DEVIATION, *self._stem, stride=2))
        for block in self._blocks:
            states = block(states)
        return nn.relu6(_convolved(states, *self._head))[0]

    def _block(self, number: int, channels: tuple[int, int], kernel: int, expansion: int, stride: int) -> _Block:
        (into, out), prefix = channels, f"_blocks.{number}."
        inner = into * expansion
        expand = self._joined(f"{prefix}_expand_conv", f"{prefix}_bn0", (inner, into, 1, 1)) if expansion > 1 else None
        depthwise = self._joined(f"{prefix}_depthwise_conv", f"{prefix}_bn1", (inner, 1, kernel, kernel))
        project = self._joined(f"{prefix}_project_conv", f"{prefix}_bn2", (out, inner, 1, 1))
        return _Block(expand, depthwise, project, stride)

    def _joined(self, convolution: str, norm: str, shape: tuple[int, ...]) -> tuple[mx.array, mx.array]:
        """(kernel (out, h, w, into), bias) of a convolution merged with the norm after it."""
        kernel = self._tensor(f"{convolution}.weight", shape)
        names = ("weight", "bias", "running_mean", "running_var")
        scale, shift, mean, variance = (self._tensor(f"{norm}.{name}", shape[:1]) for name in names)
        factor = scale / mx.sqrt(variance + _EPS)
        joined = kernel.transpose(0, 2, 3, 1) * factor[:, None, None, None], shift - mean * factor
        mx.eval(joined)
        return joined

    def _tensor(self, name: str, shape: tuple[int, ...]) -> mx.array:
        found = self._weights.get(name)
        if found is None or found.shape != shape:
            what = "is missing" if found is None else f"has the shape {list(found.shape)}, {list(shape)} is needed"
            raise InputError(tr("efficientnet-lite0: {name} {what}; give the released weights", name=name, what=what))
        return found.astype(mx.float32)


class _Block:
    """An inverted residual block: widen, convolve each channel by itself, narrow; added to its input if sizes agree."""

    def __init__(
        self,
        expand: tuple[mx.array, mx.array] | None,
        depthwise: tuple[mx.array, mx.array],
        project: tuple[mx.array, mx.array],
        stride: int,
    ) -> None:
        self._expand, self._depthwise, self._project, self._stride = expand, depthwise, project, stride

    def __call__(self, x: mx.array) -> mx.array:
        states = x if self._expand is None else nn.relu6(_convolved(x, *self._expand))
        channels = states.shape[-1]
        states = nn.relu6(_convolved(states, *self._depthwise, stride=self._stride, groups=channels))
        states = _convolved(states, *self._project)
        return x + states if states.shape == x.shape else states


def _convolved(x: mx.array, kernel: mx.array, bias: mx.array, stride: int = 1, groups: int = 1) -> mx.array:
    """Padded as TensorFlow's "same": the odd row and column of padding come last."""
    padding = []
    for size, width in zip(x.shape[1:3], kernel.shape[1:3], strict=True):
        total = max((-(-size // stride) - 1) * stride + width - size, 0)
        padding.append((total // 2, total - total // 2))
    padded = mx.pad(x, [(0, 0), *padding, (0, 0)]) if any(map(sum, padding)) else x
    if groups > 1:
        return _each_channel(padded, kernel, stride) + bias
    if kernel.shape[1:3] == (1, 1):
        return padded @ kernel[:, 0, 0].T + bias
    return mx.conv2d(padded, kernel, stride=stride) + bias


def _each_channel(x: mx.array, kernel: mx.array, stride: int) -> mx.array:
    """x (B, H, W, C) with a kernel (C, h, w, 1) of its own for each channel: shifted products, added up.

    MLX's convolution by groups takes several times as long on a CPU.
    """
    down, across = ((size - width) // stride + 1 for size, width in zip(x.shape[1:3], kernel.shape[1:3], strict=True))
    total = mx.zeros((1,))
    for row in range(kernel.shape[1]):
        for column in range(kernel.shape[2]):
            rows = slice(row, row + (down - 1) * stride + 1, stride)
            columns = slice(column, column + (across - 1) * stride + 1, stride)
            total = total + x[:, rows, columns] * kernel[:, row, column, 0]
    return total
