"""The vision towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: patches of one picture in, features of the text model out.

Module and tensor names are transformers'. Source: Qwen2-VL (arXiv 2409.12191), Qwen2.5-VL (arXiv 2502.13923: windows,
gated MLP), Qwen3-VL (arXiv 2511.21631: learnt positions, DeepStack arXiv 2406.04334).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_loopai.models.vision.grid import interpolation, patch_places, windows
from mlx_loopai.models.vision.patches import Grid
from mlx_loopai.models.vision.settings import PatchSettings, TowerSettings

# The one tensor whose axes differ between layouts: a convolution.
PATCH_KERNEL = "patch_embed.proj.weight"
_EPS = 1e-6
_FUNCTIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "silu": nn.silu,
    "gelu": nn.gelu,
    "gelu_pytorch_tanh": nn.gelu_approx,
    "quick_gelu": lambda x: x * mx.sigmoid(1.702 * x),
}


@dataclass(frozen=True, eq=False)
class PictureFeatures:
    """What the text model reads of a picture.

    features: take the place of its tokens' embeddings. deepstack: added to the states after each of the first L blocks;
    None where the model has no DeepStack.
    """

    features: mx.array  # [N, D]
    grid: Grid
    deepstack: mx.array | None = None  # [L, N, D]


@dataclass(frozen=True, eq=False)
class _Seen:
    """The windows of attention. gathered: the patches of every window (W, S), padded; mask (W, 1, 1, S): which are
    real; back: each patch's place among the gathered (N,).
    """

    gathered: mx.array
    mask: mx.array
    back: mx.array

    @staticmethod
    def of(places: npt.NDArray[np.int32]) -> _Seen:
        """`places`: the patches of each window, -1 where there is none."""
        real = places >= 0
        back = np.empty(int(real.sum()), np.int32)
        back[places[real]] = np.flatnonzero(real)
        return _Seen(mx.array(np.maximum(places, 0)), mx.array(real[:, None, None, :]), mx.array(back))


class Attention(nn.Module):
    """Attention between all patches of a picture, or between those of a window."""

    def __init__(self, settings: TowerSettings) -> None:
        super().__init__()
        self.heads = settings.heads
        self.qkv = nn.Linear(settings.width, 3 * settings.width)
        self.proj = nn.Linear(settings.width, settings.width)

    def __call__(self, x: mx.array, turns: tuple[mx.array, mx.array], seen: _Seen | None) -> mx.array:
        """x (N, D), turns: cosines and sines (N, D / heads)."""
        size = x.shape[-1] // self.heads
        queries, keys, values = mx.split(self.qkv(x).reshape(-1, 3 * self.heads, size), 3, axis=1)
        parts = (_turned(queries, *turns), _turned(keys, *turns), values)
        by_window = (part[None] if seen is None else part[seen.gathered] for part in parts)
        heads_first = [part.swapaxes(1, 2) for part in by_window]
        mask = None if seen is None else seen.mask
        found = mx.fast.scaled_dot_product_attention(*heads_first, scale=size**-0.5, mask=mask)
        found = found.swapaxes(1, 2).reshape(-1, x.shape[-1])
        return self.proj(found if seen is None else found[seen.back])


class PlainMlp(nn.Module):
    """Two linears; `names` are the checkpoint's."""

    def __init__(self, settings: TowerSettings, names: tuple[str, str]) -> None:
        super().__init__()
        self._names, self._activation = names, _FUNCTIONS[settings.activation]
        setattr(self, names[0], nn.Linear(settings.width, settings.inner))
        setattr(self, names[1], nn.Linear(settings.inner, settings.width))

    def __call__(self, x: mx.array) -> mx.array:
        first, second = (self[name] for name in self._names)
        return second(self._activation(first(x)))


class GatedMlp(nn.Module):
    """The MLP of Qwen2.5-VL, with biases."""

    def __init__(self, settings: TowerSettings) -> None:
        super().__init__()
        self._activation = _FUNCTIONS[settings.activation]
        self.gate_proj = nn.Linear(settings.width, settings.inner)
        self.up_proj = nn.Linear(settings.width, settings.inner)
        self.down_proj = nn.Linear(settings.inner, settings.width)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(self._activation(self.gate_proj(x)) * self.up_proj(x))


class VisionBlock(nn.Module):
    """Attention and MLP, each after a norm and added to its input."""

    def __init__(self, settings: TowerSettings) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(settings, settings.width), _norm(settings, settings.width)
        self.attn = Attention(settings)
        self.mlp = _mlp(settings)

    def __call__(self, x: mx.array, turns: tuple[mx.array, mx.array], seen: _Seen | None) -> mx.array:
        x = x + self.attn(self.norm1(x), turns, seen)
        return x + self.mlp(self.norm2(x))


class Merger(nn.Module):
    """The patches of a feature become one vector of the text model's width (Qwen2-VL, Qwen2.5-VL)."""

    def __init__(self, settings: TowerSettings, joined: int) -> None:
        super().__init__()
        self._joined = joined
        self.ln_q = _norm(settings, settings.width)
        self.mlp = [nn.Linear(joined, joined), nn.GELU(), nn.Linear(joined, settings.out)]

    def __call__(self, x: mx.array) -> mx.array:
        first, activation, last = self.mlp
        return last(activation(first(self.ln_q(x).reshape(-1, self._joined))))


class NamedMerger(nn.Module):
    """Qwen3-VL's merger, whose norm comes before or after the patches are joined."""

    def __init__(self, settings: TowerSettings, joined: int, norm_joined: bool) -> None:
        super().__init__()
        self._joined, self._norm_joined = joined, norm_joined
        self.norm = nn.LayerNorm(joined if norm_joined else settings.width, eps=_EPS)
        self.linear_fc1 = nn.Linear(joined, joined)
        self.linear_fc2 = nn.Linear(joined, settings.out)

    def __call__(self, x: mx.array) -> mx.array:
        normed = self.norm(x.reshape(-1, self._joined) if self._norm_joined else x).reshape(-1, self._joined)
        return self.linear_fc2(nn.gelu(self.linear_fc1(normed)))


class PatchEmbedding(nn.Module):
    """The convolution whose kernel is as large as a patch: a linear layer."""

    def __init__(self, settings: TowerSettings, values: int) -> None:
        super().__init__()
        self.proj = nn.Linear(values, settings.width, bias=settings.family == "qwen3_vl")

    def __call__(self, patches: mx.array) -> mx.array:
        return self.proj(patches)


class Tower(nn.Module):
    """A vision tower; call it with the patches of one picture."""

    def __init__(self, settings: TowerSettings, patches: PatchSettings) -> None:
        super().__init__()
        self._settings = settings
        joined = settings.width * patches.merge**2
        self.patch_embed = PatchEmbedding(settings, patches.patch_values)
        self.blocks = [VisionBlock(settings) for _ in range(settings.depth)]
        if settings.family == "qwen3_vl":
            self.merger: nn.Module = NamedMerger(settings, joined, norm_joined=False)
            self.deepstack_merger_list = [NamedMerger(settings, joined, True) for _ in settings.deepstack]
        else:
            self.merger = Merger(settings, joined)
        if settings.positions:
            self.pos_embed = nn.Embedding(settings.positions**2, settings.width)

    def __call__(self, patches: mx.array, grid: Grid) -> PictureFeatures:
        """patches (N, C F P P) of a picture -> its features (N / merge^2, D)."""
        settings = self._settings
        states = self.patch_embed(patches.astype(self.patch_embed.proj.weight.dtype))
        if settings.positions:
            places, weights = interpolation(grid, settings.positions)
            learnt = self.pos_embed(mx.array(places)) * mx.array(weights)[..., None]
            states = states + learnt.sum(axis=1).astype(states.dtype)
        turns = _turns(grid, settings)
        seen = _Seen.of(windows(grid, settings.window)) if settings.window else None
        deepstack = []
        for index, block in enumerate(self.blocks):
            states = block(states, turns, None if index in settings.full else seen)
            if index in settings.deepstack:
                deepstack.append(self.deepstack_merger_list[settings.deepstack.index(index)](states))
        return PictureFeatures(self.merger(states), grid, mx.stack(deepstack) if deepstack else None)


def load_tower(settings: TowerSettings, patches: PatchSettings, weights: dict[str, mx.array], dtype: Any) -> Tower:
    """The tower with `weights`, by the names within it, cast to `dtype`.

    Raises: ValueError, as MLX does, for tensors that are missing, surplus or of another shape.
    """
    tower = Tower(settings, patches)
    if PATCH_KERNEL in weights:
        weights = weights | {PATCH_KERNEL: _flat_kernel(weights[PATCH_KERNEL], patches)}
    tower.load_weights([(key, value.astype(dtype)) for key, value in weights.items()], strict=True)
    tower.freeze()
    tower.eval()
    return tower


def tower_weights(folder: Path) -> dict[str, mx.array]:
    """The tower's tensors in a model folder, by their names within it; nothing is read before it is used."""
    from mlx_loopai.models.vision.names import tower_name

    found: dict[str, mx.array] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        arrays = mx.load(str(file))
        found |= {inner: array for name, array in arrays.items() if (inner := tower_name(name)) is not None}
    return found


def _flat_kernel(kernel: mx.array, patches: PatchSettings) -> mx.array:
    """The kernel (D, C, F, P, P) of transformers, or (D, F, P, P, C) of MLX, as a matrix (D, C F P P)."""
    theirs = (3, patches.frames, patches.patch, patches.patch)
    if kernel.ndim == 5 and tuple(kernel.shape[1:]) != theirs and tuple(kernel.shape[1:]) == (*theirs[1:], 3):
        kernel = kernel.transpose(0, 4, 1, 2, 3)
    return kernel.reshape(kernel.shape[0], -1)


def _norm(settings: TowerSettings, width: int) -> nn.Module:
    return nn.RMSNorm(width, eps=_EPS) if settings.family == "qwen2_5_vl" else nn.LayerNorm(width, eps=_EPS)


def _mlp(settings: TowerSettings) -> nn.Module:
    if settings.family == "qwen2_5_vl":
        return GatedMlp(settings)
    return PlainMlp(settings, ("fc1", "fc2") if settings.family == "qwen2_vl" else ("linear_fc1", "linear_fc2"))


def _turns(grid: Grid, settings: TowerSettings) -> tuple[mx.array, mx.array]:
    """Cosines and sines (N, 1, head size): a half of a head's frequencies turns with the row, the other the column."""
    half = settings.width // settings.heads // 2
    frequencies = 1 / mx.power(settings.theta, mx.arange(0, half, 2, dtype=mx.float32) / half)
    places = mx.array(patch_places(grid)).astype(mx.float32)
    angles = (places[:, :, None] * frequencies).reshape(len(places), -1)
    angles = mx.concatenate([angles, angles], axis=-1)[:, None]
    return mx.cos(angles), mx.sin(angles)


def _turned(x: mx.array, cosines: mx.array, sines: mx.array) -> mx.array:
    """x (N, heads, size) turned, computed in float32."""
    wide = x.astype(mx.float32)
    first, second = mx.split(wide, 2, axis=-1)
    return (wide * cosines + mx.concatenate([-second, first], axis=-1) * sines).astype(x.dtype)
