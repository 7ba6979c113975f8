"""Low-rank adapters on the linear layers of an mlx-lm model.

Source: LoRA (arXiv 2106.09685), rsLoRA (arXiv 2312.03732). Shapes and names are mlx-lm's: y = W x + s B A x is stored
as `lora_a` (D_in, R) and `lora_b` (R, D_out), both float32 whatever the base's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlx_loopai.config import LoraOptions
from mlx_loopai.errors import InputError

LINEAR_CLASSES = (nn.Linear, nn.QuantizedLinear)


def lora_scale(rank: int, alpha: float, rslora: bool) -> float:
    """The factor of B A: alpha / rank, or alpha / sqrt(rank) for rsLoRA. The one place that derives it."""
    return alpha / (math.sqrt(rank) if rslora else rank)


class LoRALinear(nn.Module):
    """A frozen linear layer with a low-rank update; `enabled = False` gives the base back.

    `observer(x, y) -> y`, when set, sees each call's input and may replace its output (importance, diagnostics).
    """

    def __init__(self, linear: nn.Module, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        n_out, n_in = linear_shape(linear)
        self.linear = linear
        self.scale = scale
        self.enabled = True
        self.observer: Callable[[mx.array, mx.array], mx.array] | None = None
        self.dropout = dropout
        self._dropout_key: mx.array | None = None
        bound = 1 / math.sqrt(n_in)
        self.lora_a = mx.random.uniform(-bound, bound, (n_in, rank))
        self.lora_b = mx.zeros((rank, n_out))

    def __call__(self, x: mx.array) -> mx.array:
        """x (..., D_in) -> (..., D_out), in the dtype of `x`."""
        y = self.linear(x)
        if self.enabled:
            update = (self._thinned(x) @ self.lora_a) @ self.lora_b
            y = y + (self.scale * update).astype(y.dtype)
        return y if self.observer is None else self.observer(x, y)

    def _thinned(self, x: mx.array) -> mx.array:
        """`x` with a share `dropout` of its entries set to 0 and the rest scaled up, while training."""
        if not (self.training and self.dropout):
            return x
        kept = mx.random.bernoulli(1 - self.dropout, x.shape, key=self._dropout_key)
        return x * kept * (1 / (1 - self.dropout))


def linear_shape(linear: nn.Module) -> tuple[int, int]:
    """(D_out, D_in) of a dense or quantised linear layer."""
    n_out, n_in = linear.weight.shape
    if isinstance(linear, nn.QuantizedLinear):
        n_in = n_in * 32 // linear.bits
    return n_out, n_in


def apply_lora(model: nn.Module, options: LoraOptions, seed: int) -> dict[str, LoRALinear]:
    """Freeze `model` and put adapters on its blocks' linear layers; returns them by dotted name.

    Raises: InputError when a name of `lora.targets` is no linear layer's, or the model has an adapter already.
    """
    if lora_modules(model):
        raise InputError("the model has an adapter already; load the base again before another one is put on it")
    model.freeze()
    blocks = model.layers
    first = len(blocks) - (options.layers or len(blocks))
    linears = [
        (index, name, layer)
        for index, block in enumerate(blocks)
        for name, layer in block.named_modules()
        if isinstance(layer, LINEAR_CLASSES)
    ]
    known = sorted({_last(name) for _, name, _ in linears})
    unknown = sorted(set(options.targets) - set(known))
    if unknown or not linears:
        raise InputError(f"lora.targets: no linear layer is called {', '.join(unknown)}; known: {', '.join(known)}")
    wanted = set(options.targets or known)
    found = [entry for entry in linears if entry[0] >= first and _last(entry[1]) in wanted]
    mx.random.seed(seed)
    scale = lora_scale(options.rank, options.alpha, options.rslora)
    # Sorted, so that a seed gives the same adapter however the modules happen to be walked.
    for index, name, layer in sorted(found, key=lambda entry: entry[:2]):
        adapter = LoRALinear(layer, options.rank, scale, options.dropout)
        blocks[index].update_modules(tree_unflatten([(name, adapter)]))
        adapter.linear.freeze()
        adapter.train(model.training)
    return lora_modules(model)


def lora_modules(model: nn.Module) -> dict[str, LoRALinear]:
    """Every adapter of `model` by dotted name, such as `model.layers.0.self_attn.q_proj`, in layer order."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}
    return dict(sorted(found.items(), key=lambda entry: _natural(entry[0])))


@contextmanager
def adapter_disabled(model: nn.Module) -> Iterator[None]:
    """Within it `model` is its base: one copy of the weights serves both."""
    before = [(adapter, adapter.enabled) for adapter in lora_modules(model).values()]
    for adapter, _ in before:
        adapter.enabled = False
    try:
        yield
    finally:
        for adapter, enabled in before:
            adapter.enabled = enabled


@contextmanager
def dropout_drawn_from(block: nn.Module, key: mx.array | None) -> Iterator[None]:
    """Within it the adapters of `block` drop the same entries at every call; None: new ones each time, as usual.

    A checkpointed block runs again in the backward pass, and must be the same function then.
    """
    adapters = [module for module in block.modules() if isinstance(module, LoRALinear)]
    keys = [None] * len(adapters) if key is None or not adapters else list(mx.random.split(key, len(adapters)))
    for adapter, own in zip(adapters, keys, strict=True):
        adapter._dropout_key = own
    try:
        yield
    finally:
        for adapter in adapters:
            adapter._dropout_key = None


def dropout_key(block: nn.Module) -> mx.array | None:
    """A new key for `dropout_drawn_from`; None, and nothing drawn, where `block` drops nothing."""
    drops = any(isinstance(module, LoRALinear) and module.dropout for module in block.modules())
    return mx.random.randint(0, 1 << 31, (2,), mx.uint32) if drops and block.training else None


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _natural(name: str) -> list[int | str]:
    return [f"{int(part):06d}" if part.isdigit() else part for part in name.split(".")]
