"""Low-rank adapters on the linear layers of an mlx-lm model.

Source: LoRA (arXiv 2106.09685), rsLoRA (arXiv 2312.03732), DoRA (arXiv 2402.09353). Shapes and names are mlx-lm's:
y = W x + s B A x is stored as `lora_a` (D_in, R) and `lora_b` (R, D_out), DoRA's magnitudes as `m` (D_out,), all
float32 whatever the base's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import TypeGuard

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.config import LoraOptions
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.module_names import split_module
from mlx_loopai.models.projections import project_jointly
from mlx_loopai.models.updated_linear import (
    LINEAR_CLASSES,
    UpdatedLinear,
    chosen_linears,
    put_update,
    updated_modules,
)
from mlx_loopai.models.vision.projector import projector_of


def lora_scale(rank: int, alpha: float, rslora: bool) -> float:
    """The factor of B A: alpha / rank, or alpha / sqrt(rank) for rsLoRA. The one place that derives it."""
    return alpha / (math.sqrt(rank) if rslora else rank)


class LoRALinear(UpdatedLinear):
    """A frozen linear layer with a low-rank update.

    `joint`: compute through models/projections.py; the compiled step asks for it (`computed_jointly`).
    """

    def __init__(self, linear: nn.Module, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__(linear)
        n_out, n_in = self.sizes
        self.scale = scale
        self.joint = False
        self.dropout = dropout
        self._dropout_key: mx.array | None = None
        self._given: mx.array | None = None
        bound = 1 / math.sqrt(n_in)
        self.lora_a = mx.random.uniform(-bound, bound, (n_in, rank))
        self.lora_b = mx.zeros((rank, n_out))

    @property
    def changes_nothing(self) -> bool:
        return not mx.any(self.lora_b).item()

    def update_matrix(self) -> mx.array:
        return self.scale * (self.lora_a @ self.lora_b).T

    def scale_update(self, factor: float) -> None:
        self.lora_b = self.lora_b * factor

    @property
    def is_joint(self) -> bool:
        """Whether it computes y = W x + s B A x and nothing else, and through models/projections.py."""
        return self.joint and self.is_plain and not (self.training and self.dropout)

    def __call__(self, x: mx.array) -> mx.array:
        """x (..., D_in) -> (..., D_out), in the dtype of `x`."""
        if self._given is not None:
            return self._given
        if self.is_joint:
            return project_jointly([self], x)[0]
        y = self.linear(x)
        if self.enabled:
            y = self._adapted(x, y)
        return y if self.observer is None else self.observer(x, y)

    def _adapted(self, x: mx.array, y: mx.array) -> mx.array:
        """`y`, the frozen layer's output, with the update added.

        The factors are cast to the dtype of `x`, not `x` to theirs: a float32 copy of every input would be kept for the
        backward pass. Their gradients stay float32.
        """
        return y + (self._thinned(x) @ self.lora_a.astype(x.dtype)) @ (self.scale * self.lora_b).astype(x.dtype)

    def _thinned(self, x: mx.array) -> mx.array:
        """`x` with a share `dropout` of its entries set to 0 and the rest scaled up, while training."""
        if not (self.training and self.dropout):
            return x
        kept = mx.random.bernoulli(1 - self.dropout, x.shape, key=self._dropout_key)
        return x * kept * (1 / (1 - self.dropout))


class DoRALinear(LoRALinear):
    """LoRA whose adapted rows are scaled to a learnt length: y = m / |W + s (A B)^T| * (W x + s B A x) + bias.

    The lengths are computed from the row norms of W, from W A and from A^T A, so that no dense matrix is built and a
    quantised W stays quantised. No gradient flows through them.

    Source: DoRA (arXiv 2402.09353), section 4.3 for the missing gradient.
    """

    def __init__(self, linear: nn.Module, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__(linear, rank, scale, dropout)
        self._squares = mx.square(dense_weight(linear).astype(mx.float32)).sum(axis=1)
        self.m = mx.sqrt(self._squares)
        mx.eval(self._squares, self.m)  # the dense copy goes before the next layer's comes

    @property
    def is_joint(self) -> bool:
        return False

    @property
    def changes_nothing(self) -> bool:
        return False  # with a bias its output is rounded once more than the base's

    def _adapted(self, x: mx.array, y: mx.array) -> mx.array:
        bias = self.linear.get("bias", 0)
        directed = super()._adapted(x, y - bias)
        return directed * (self.m / self._lengths()).astype(y.dtype) + bias

    def _lengths(self) -> mx.array:
        """|W + s (A B)^T| of each row (D_out,): |W|^2 + 2 s <W, (A B)^T> + s^2 |A B|^2."""
        a, b = mx.stop_gradient(self.lora_a), mx.stop_gradient(self.scale * self.lora_b)
        projected = self.linear(a.T.astype(_float_dtype(self.linear))) - self.linear.get("bias", 0)
        cross = (projected.astype(mx.float32) * b).sum(axis=0)
        update = (b * ((a.T @ a) @ b)).sum(axis=0)
        return mx.sqrt(self._squares + 2 * cross + update)


def dense_weight(linear: nn.Module) -> mx.array:
    """The weight (D_out, D_in) of a linear layer, dequantised where it is quantised."""
    if not isinstance(linear, nn.QuantizedLinear):
        return linear.weight
    form = {"group_size": linear.group_size, "bits": linear.bits, "mode": linear.mode}
    return mx.dequantize(linear.weight, linear.scales, linear.get("biases"), **form)


def _float_dtype(linear: nn.Module) -> mx.Dtype:
    """The dtype in which a linear layer computes; float32 for mxfp4, whose scales are not floating-point numbers."""
    dtype = (linear.scales if isinstance(linear, nn.QuantizedLinear) else linear.weight).dtype
    return dtype if mx.issubdtype(dtype, mx.floating) else mx.float32


def apply_lora(
    model: nn.Module, options: LoraOptions, seed: int, ranks: Mapping[str, int] = MappingProxyType({})
) -> dict[str, LoRALinear]:
    """Freeze `model` and put adapters on its blocks' linear layers; returns them by dotted name, without experts'.

    ranks: by dotted name, for modules that have another rank than `options.rank`; the scale is the same for all.

    Raises: InputError when a name of `lora.targets` is not a linear layer's, or the model has an adapter already.
    """
    chosen = chosen_linears(model, options.targets, options.layers)
    model.freeze()
    mx.random.seed(seed)
    scale = lora_scale(options.rank, options.alpha, options.rslora)
    own = {split_module(name): rank for name, rank in ranks.items()}
    for block, name, layer in chosen:
        rank = own.get((block, name), options.rank)
        if not isinstance(layer, LINEAR_CLASSES):
            put_update(model, block, name, _for_experts(layer, options, scale))
            continue
        adapter = (DoRALinear if options.dora else LoRALinear)(layer, rank, scale, options.dropout)
        put_update(model, block, name, adapter)
    return lora_modules(model)


def _for_experts(layer: nn.Module, options: LoraOptions, scale: float) -> UpdatedLinear:
    from mlx_loopai.models.lora_experts import LoRAExperts  # slow to import, and most models have none

    for name in ("dora", "dropout"):
        if getattr(options, name):
            raise InputError(tr("lora.{name}: not for experts; leave switch_mlp out of lora.targets", name=name))
    if options.ranks != "same":
        raise InputError(tr("lora.ranks: not for experts; leave switch_mlp out of lora.targets"))
    return LoRAExperts(layer, options.rank, scale)


def lora_modules(model: nn.Module) -> dict[str, LoRALinear]:
    """Every low-rank adapter of `model` by dotted name, in layer order."""
    return {name: layer for name, layer in updated_modules(model).items() if isinstance(layer, LoRALinear)}


@contextmanager
def adapter_disabled(model: nn.Module) -> Iterator[None]:
    """Inside, `model` computes as its base; one copy of the weights serves both."""
    before = [(adapter, adapter.enabled) for adapter in updated_modules(model).values()]
    for adapter, _ in before:
        adapter.enabled = False
    projector = projector_of(model)
    try:
        with nullcontext() if projector is None else projector.untaught():
            yield
    finally:
        for adapter, enabled in before:
            adapter.enabled = enabled


def projected(layers: Sequence[nn.Module], x: mx.array) -> list[mx.array]:
    """The output of each of `layers` for x (..., D_in); in one function where all of them are joint adapters."""
    return project_jointly(layers, x) if all_joint(layers) else [layer(x) for layer in layers]


def all_joint(layers: Sequence[nn.Module | None]) -> TypeGuard[Sequence[LoRALinear]]:
    """Whether all of `layers` are joint adapters."""
    return all(isinstance(layer, LoRALinear) and layer.is_joint for layer in layers)


@contextmanager
def computed_jointly(model: nn.Module) -> Iterator[None]:
    """Inside, adapters of `model` that read the same input are computed in one function (models/projections.py)."""
    adapters = lora_modules(model).values()
    for adapter in adapters:
        adapter.joint = True
    try:
        yield
    finally:
        for adapter in adapters:
            adapter.joint = False


@contextmanager
def outputs_given(layers: Sequence[LoRALinear], outputs: Sequence[mx.array]) -> Iterator[None]:
    """Within it each of `layers` gives its output without computing anything."""
    for layer, output in zip(layers, outputs, strict=True):
        layer._given = output
    try:
        yield
    finally:
        for layer in layers:
            layer._given = None


@contextmanager
def adapter_answering(model: nn.Module, on: bool) -> Iterator[None]:
    """Inside, `model` answers with its adapter, or with `on` false as its base."""
    with nullcontext() if on else adapter_disabled(model):
        yield


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


def dropping_the_same(layer: nn.Module, run: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """`run`, which calls `layer`, with dropout that drops the same entries at every call."""
    if not isinstance(layer, LoRALinear):
        return run
    key = layer._dropout_key

    def again(*arguments: mx.array) -> mx.array:
        before, layer._dropout_key = layer._dropout_key, key
        try:
            return run(*arguments)
        finally:
            layer._dropout_key = before

    return again


def drops_inputs(model: nn.Module) -> bool:
    """Whether `model` is being trained with dropout."""
    return any(layer.training and layer.dropout > 0 for layer in lora_modules(model).values())


def dropout_key(block: nn.Module) -> mx.array | None:
    """A new key for `dropout_drawn_from`; None, and nothing drawn, where `block` drops nothing."""
    drops = any(isinstance(module, LoRALinear) and module.dropout for module in block.modules())
    return mx.random.randint(0, 1 << 31, (2,), mx.uint32) if drops and block.training else None
