"""What general data says may not move: importance of every adapted layer's weights, as a rank-1 matrix per layer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_loopai.files import whole_file
from mlx_loopai.models.adapters import save_arrays
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.gradient import Targets
from mlx_loopai.models.lora import LoRALinear, adapter_disabled, lora_modules
from mlx_loopai.models.loss import Head, linear_cross_entropy
from mlx_loopai.models.micro_batch import MicroBatch

# An answer's first tokens: its language and whether it is prose or markup are decided by them.
OPENING_TOKENS = 4


@dataclass(frozen=True)
class Importance:
    """Omega_l = c_l u_l v_l^T for every adapted layer l, with mean 1 over all weights before c_l.

    output (D_out,) and input (D_in,) per layer name; `coefficients`: c_l, mean 1; `activations`: (N, D_in) inputs of
    real tokens, on the scale of `input`, in the model's dtype, kept only for the sketch penalty. Layers that read the
    same input (q, k and v; gate and up) share one array.
    """

    output: dict[str, mx.array]
    input: dict[str, mx.array]
    coefficients: dict[str, float]
    tokens: int
    activations: dict[str, mx.array] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        arrays = {f"output.{name}": array for name, array in self.output.items()}
        arrays |= {f"input.{name}": array for name, array in self.input.items()}
        arrays |= {f"coefficient.{name}": mx.array(value) for name, value in self.coefficients.items()}
        owners = _owners(self.activations)
        arrays |= {f"activations.{name}": self.activations[name] for name in set(owners.values())}
        with whole_file(path) as temporary:
            save_arrays(temporary, arrays, {"tokens": str(self.tokens), "owners": json.dumps(owners)})

    @staticmethod
    def load(path: Path) -> Importance:
        arrays, metadata = mx.load(str(path), return_metadata=True)
        parts: dict[str, dict[str, mx.array]] = {"output": {}, "input": {}, "coefficient": {}, "activations": {}}
        for key, array in arrays.items():
            part, _, name = key.partition(".")
            parts[part][name] = array
        coefficients = {name: array.item() for name, array in parts["coefficient"].items()}
        owners = json.loads(metadata["owners"])
        activations = {name: parts["activations"][owner] for name, owner in owners.items()}
        return Importance(parts["output"], parts["input"], coefficients, int(metadata["tokens"]), activations)


def _owners(arrays: dict[str, mx.array]) -> dict[str, str]:
    """Of every name, the first name that has the same array."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(array), name) for name, array in arrays.items()}


def measure_importance(
    model: nn.Module,
    batches: Sequence[MicroBatch],
    temperature: float = 1.0,
    on_batch: Callable[[int], None] = lambda done: None,
    activations: int = 0,
    opening_share: float = 0.0,
) -> Importance:
    """Importance of the base's weights under the adapters of `model`, from one backward pass over general batches.

    With x the input of a layer and delta the gradient of a token's loss at its output, dL/dW = sum_t delta_t x_t^T, and
    Omega = E[delta^2] E[x^2]^T approximates the diagonal of its Fisher matrix: D_in + D_out numbers a layer instead of
    D_in * D_out. Layer coefficients are (||Omega_l||_F / mean)^(1/temperature), normalised to mean 1. About
    `activations` inputs of real tokens, evenly drawn over the batches, are kept for every layer; `opening_share` of
    them where the first tokens of an answer are predicted, which decide its shape and language.

    Source: element-wise and layer-wise importance of arXiv 2501.13669 (sections 4.1 to 4.3), of which we keep the two
    levels and change the estimator: a Kronecker-factored diagonal (arXiv 1503.05671) in place of the dense path
    integral, the base as anchor, and a normalisation in place of its softmax over raw norms.
    """
    layers = lora_modules(model)
    squares_in = {name: mx.zeros(layer.lora_a.shape[0]) for name, layer in layers.items()}
    squares_out = {name: mx.zeros(layer.lora_b.shape[1]) for name, layer in layers.items()}
    kept: dict[str, list[mx.array]] = {name: [] for name in layers}
    owners: dict[str, str] = {}
    tokens = supervised = 0
    with adapter_disabled(model):
        for done, batch in enumerate(batches):
            inputs, gradients, owners = observe(model, layers, batch)
            real = _read_positions(batch)
            for name in layers:
                squares_in[name] = squares_in[name] + (
                    mx.square(inputs[name].astype(mx.float32)) * mx.array(real)[..., None]
                ).sum((0, 1))
                squares_out[name] = squares_out[name] + mx.square(gradients[name].astype(mx.float32)).sum((0, 1))
            places = _drawn(real, _openings(batch), -(-activations // len(batches)), opening_share, seed=done)
            for name in set(owners.values()) if activations else ():
                kept[name].append(inputs[name][places])
            mx.eval(squares_in, squares_out, kept)
            tokens += int(real.sum())
            supervised += int(batch.supervised[:, 1:].sum())
            on_batch(done + 1)
    return _normalise(
        {name: values / supervised for name, values in squares_out.items()},
        {name: values / tokens for name, values in squares_in.items()},
        _shared(kept, owners),
        temperature,
        tokens,
    )


def _shared(kept: dict[str, list[mx.array]], owners: dict[str, str]) -> dict[str, mx.array]:
    whole = {name: mx.concatenate(parts) for name, parts in kept.items() if parts}
    return {name: whole[owner] for name, owner in owners.items() if owner in whole}


def _drawn(
    real: np.ndarray, openings: np.ndarray, count: int, opening_share: float, seed: int
) -> tuple[mx.array, mx.array]:
    """(rows, columns) of at most `count` real positions of a batch, drawn without replacement."""
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(np.flatnonzero(real))
    first = generator.permutation(np.flatnonzero(openings))[: round(count * opening_share)]
    others = shuffled[~np.isin(shuffled, first)][: count - len(first)]
    rows, columns = np.unravel_index(np.concatenate([first, others]), real.shape)
    return mx.array(rows), mx.array(columns)


def _openings(batch: MicroBatch) -> np.ndarray:
    """(B, T-1) bool: positions that predict one of the first tokens of a row's first answer."""
    taught = batch.supervised[:, 1:]
    return taught & (np.cumsum(taught, axis=1) <= OPENING_TOKENS)


def observe(
    model: nn.Module, layers: dict[str, LoRALinear], batch: MicroBatch
) -> tuple[dict[str, mx.array], dict[str, mx.array], dict[str, str]]:
    """Every layer's inputs (B, T, D_in) and the gradients of the summed token losses at its outputs (B, T, D_out).

    The third names, for every layer, the first layer that reads the same input.
    """
    targets = Targets.of(batch)
    ids = mx.array(batch.ids[:, :-1])
    head = Head.of(model)
    owners: dict[str, str] = {}

    def loss(offsets: dict[str, mx.array]) -> tuple[mx.array, dict[str, mx.array]]:
        inputs: dict[str, mx.array] = {}
        for name, layer in layers.items():
            layer.observer = _tap(name, inputs, offsets)
        hidden = hidden_states(model, ids)[targets.rows, targets.columns]
        owners.update(_owners(inputs))
        return linear_cross_entropy(hidden, head, targets.tokens, targets.weights), inputs

    offsets = {name: mx.zeros((*ids.shape, layer.lora_b.shape[1])) for name, layer in layers.items()}
    try:
        (_, inputs), gradients = mx.value_and_grad(loss)(offsets)
    finally:
        for layer in layers.values():
            layer.observer = None
    return inputs, gradients, owners


def _read_positions(batch: MicroBatch) -> np.ndarray:
    """(B, T-1) bool: positions up to the last supervised token, so that padding does not count."""
    later = np.maximum.accumulate(np.flip(batch.supervised[:, 1:], axis=1), axis=1)
    return np.ascontiguousarray(np.flip(later, axis=1))  # MLX takes no negative strides


def _tap(
    name: str, inputs: dict[str, mx.array], offsets: dict[str, mx.array]
) -> Callable[[mx.array, mx.array], mx.array]:
    def observe(x: mx.array, y: mx.array) -> mx.array:
        inputs[name] = x
        return y + offsets[name].astype(y.dtype)

    return observe


def _normalise(
    output: dict[str, mx.array],
    input_: dict[str, mx.array],
    activations: dict[str, mx.array],
    temperature: float,
    tokens: int,
) -> Importance:
    names = list(output)
    means = {name: output[name].mean().item() * input_[name].mean().item() for name in names}
    sizes = {name: output[name].size * input_[name].size for name in names}
    overall = sum(means[name] * sizes[name] for name in names) / sum(sizes.values())
    root = overall**0.5
    output = {name: values / root for name, values in output.items()}
    input_ = {name: values / root for name, values in input_.items()}
    scaled = {owner: activations[owner] / root**0.5 for owner in _owners(activations).values()}
    activations = {name: scaled[owner] for name, owner in _owners(activations).items()}
    norms = np.array(
        [mx.square(output[n]).sum().item() ** 0.5 * mx.square(input_[n]).sum().item() ** 0.5 for n in names]
    )
    weights = (norms / norms.mean()) ** (1 / temperature)
    weights = weights / weights.mean()
    return Importance(output, input_, dict(zip(names, weights.tolist(), strict=True)), tokens, activations)
