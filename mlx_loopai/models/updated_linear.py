"""A frozen linear layer with a trainable update: the base class of low-rank adapters and of whole updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.decoder import architecture_in
from mlx_loopai.models.module_names import EXPERTS, is_of_experts, target_of
from mlx_loopai.models.vision.projector import projector_of

LINEAR_CLASSES = (nn.Linear, nn.QuantizedLinear)


class UpdatedLinear(nn.Module):
    """A frozen linear layer W with a trainable update DW; with `enabled = False` it is the base's layer.

    `observer(x, y) -> y`, when set, is given each call's input and output and may replace the output (importance,
    diagnostics).
    """

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear
        self.enabled = True
        self.observer: Callable[[mx.array, mx.array], mx.array] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is switched on and nobody observes it."""
        return self.enabled and self.observer is None

    @property
    def sizes(self) -> tuple[int, int]:
        """(D_out, D_in)."""
        return linear_shape(self.linear)

    @property
    def changes_nothing(self) -> bool:
        """Whether it is known to compute bit for bit as the base's layer although it is switched on."""
        return False

    def update_matrix(self) -> mx.array:
        """DW (D_out, D_in), float32."""
        raise NotImplementedError

    def scale_update(self, factor: float) -> None:
        """Make DW `factor` times as large."""
        raise NotImplementedError


def linear_shape(linear: nn.Module) -> tuple[int, int]:
    """(D_out, D_in) of a dense or quantised linear layer."""
    n_out, n_in = linear.weight.shape
    if isinstance(linear, nn.QuantizedLinear):
        n_in = n_in * 32 // linear.bits
    return n_out, n_in


def chosen_linears(model: nn.Module, targets: Sequence[str], layers: int) -> list[tuple[int, str, nn.Module]]:
    """(block, name in it, layer) of every linear layer that an update goes on, in the order of these names.

    targets: last parts of their names; empty: all that can be adapted. layers: only those of the last N blocks; 0: of
    all. Stacked experts are included only where a target names them, such as `switch_mlp.up_proj`.

    Raises: InputError when a name is not a linear layer's, or the model has an update already.
    """
    if updated_modules(model):
        raise InputError(tr("the model has an adapter already; load the base again before another one is put on it"))
    blocks = model.layers
    first = len(blocks) - (layers or len(blocks))
    frozen = architecture_in(model).never_adapted
    linears = [
        (index, name, layer)
        for index, block in enumerate(blocks)
        for name, layer in block.named_modules()
        if (isinstance(layer, LINEAR_CLASSES) or _is_matrix_of_experts(name, layer)) and name not in frozen
    ]
    known = sorted({target_of(name) for _, name, _ in linears})
    unknown = sorted(set(targets) - set(known))
    if unknown or not linears:
        raise InputError(
            tr(
                "lora.targets: no linear layer is called {unknown}; known: {known}",
                unknown=", ".join(unknown),
                known=", ".join(known),
            )
        )
    wanted = set(targets or (name for name in known if not name.startswith(f"{EXPERTS}.")))
    found = [entry for entry in linears if entry[0] >= first and target_of(entry[1]) in wanted]
    # Sorted, so that a seed gives the same adapter however the modules happen to be walked.
    return sorted(found, key=lambda entry: entry[:2])


def put_update(model: nn.Module, block: int, name: str, updated: UpdatedLinear) -> None:
    """Put `updated` in the place of the layer that it holds, which stays frozen."""
    model.layers[block].update_modules(tree_unflatten([(name, updated)]))
    updated.linear.freeze()
    updated.train(model.training)


def updated_modules(model: nn.Module) -> dict[str, UpdatedLinear]:
    """Every updated layer of `model` by dotted name, such as `model.layers.0.self_attn.q_proj`, in layer order."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, UpdatedLinear)}
    return dict(sorted(found.items(), key=lambda entry: _natural(entry[0])))


def computes_as_base(model: nn.Module) -> bool:
    """Whether `model` is known to compute bit for bit as its base, as it does before the first step of a new update."""
    return projector_of(model) is None and all(layer.changes_nothing for layer in updated_modules(model).values())


def scale_update(model: nn.Module, factor: Callable[[str], float]) -> None:
    """Multiply the update of every updated layer of `model` by `factor` of its dotted name."""
    for name, layer in updated_modules(model).items():
        layer.scale_update(factor(name))


def exchange_updates(model: nn.Module, old: Mapping[str, UpdatedLinear], new: Mapping[str, UpdatedLinear]) -> None:
    """Put `new` on `model` in place of `old`, its present updates; both as `updated_modules` gives them."""
    layers: dict[str, nn.Module] = {name: updated.linear for name, updated in old.items()} | dict(new)
    if layers:
        model.update_modules(tree_unflatten(list(layers.items())))


def remove_updates(model: nn.Module) -> None:
    """Take every update off `model`: each layer is the frozen one again that the update was put on."""
    exchange_updates(model, updated_modules(model), {})
    projector = projector_of(model)
    if projector is not None:
        projector.restore()


def _is_matrix_of_experts(name: str, layer: nn.Module) -> bool:
    return is_of_experts(name) and "weight" in layer


def _natural(name: str) -> list[int | str]:
    return [f"{int(part):06d}" if part.isdigit() else part for part in name.split(".")]
