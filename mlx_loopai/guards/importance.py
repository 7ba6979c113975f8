"""How much general data depends on each weight of the adapted layers: importance as a rank-1 matrix per layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_loopai.config import PenaltyOptions
from mlx_loopai.files import whole_file
from mlx_loopai.guards.guard import Material
from mlx_loopai.guards.measured import MeasuredGuard, read_parts
from mlx_loopai.guards.observation import observe, owners_of
from mlx_loopai.language import tr
from mlx_loopai.models.adapters import save_arrays
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.models.updated_linear import updated_modules
from mlx_loopai.progress import Advance, ignore

# How many of an answer's first tokens count as its opening: they decide its language, and whether it is prose or
# markup.
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
        owners = owners_of(self.activations)
        arrays |= {f"activations.{name}": self.activations[name] for name in dict.fromkeys(owners.values())}
        with whole_file(path) as temporary:
            save_arrays(temporary, arrays, {"tokens": str(self.tokens), "owners": json.dumps(owners)})

    @staticmethod
    def load(path: Path) -> Importance:
        parts, metadata = read_parts(path)
        coefficients = {name: array.item() for name, array in parts["coefficient"].items()}
        owners = json.loads(metadata["owners"])
        activations = {name: parts["activations"][owner] for name, owner in owners.items()}
        return Importance(
            output=parts["output"],
            input=parts["input"],
            coefficients=coefficients,
            tokens=int(metadata["tokens"]),
            activations=activations,
        )


@dataclass(frozen=True)
class InputSample:
    """Which inputs of a layer are kept: about `count` of real tokens, evenly drawn over the batches.

    opening_share: part of them taken where the first tokens of an answer are predicted, which decide its shape and
    language.
    """

    count: int = 0
    opening_share: float = 0.0

    def drawn(self, batch: MicroBatch, n_batches: int, seed: int) -> tuple[mx.array, mx.array]:
        """(rows, columns) of this batch's share of them, drawn without replacement."""
        count = -(-self.count // n_batches)
        real = _read_positions(batch)
        generator = np.random.default_rng(seed)
        shuffled = generator.permutation(np.flatnonzero(real))
        first = generator.permutation(np.flatnonzero(_openings(batch)))[: round(count * self.opening_share)]
        others = shuffled[~np.isin(shuffled, first)][: count - len(first)]
        rows, columns = np.unravel_index(np.concatenate([first, others]), real.shape)
        return mx.array(rows), mx.array(columns)


def measure_importance(
    model: nn.Module,
    batches: Sequence[MicroBatch],
    temperature: float = 1.0,
    sample: InputSample = InputSample(),
    on_progress: Advance = ignore,
) -> Importance:
    """Importance of the base's weights under the adapters of `model`, from one backward pass over general batches.

    With x the input of a layer and delta the gradient of a token's loss at its output, dL/dW = sum_t delta_t x_t^T, and
    Omega = E[delta^2] E[x^2]^T approximates the diagonal of its Fisher matrix: D_in + D_out numbers a layer instead of
    D_in * D_out. Layer coefficients are (||Omega_l||_F / mean)^(1/temperature), normalised to mean 1. The inputs
    that `sample` names are kept for every layer.

    Source: element-wise and layer-wise importance of arXiv 2501.13669 (sections 4.1 to 4.3), of which we keep the two
    levels and change the estimator: a Kronecker-factored diagonal (arXiv 1503.05671) in place of the dense path
    integral, the base as anchor, and a normalisation in place of its softmax over raw norms.
    """
    layers = updated_modules(model)
    squares_in = {name: mx.zeros(layer.sizes[1]) for name, layer in layers.items()}
    squares_out = {name: mx.zeros(layer.sizes[0]) for name, layer in layers.items()}
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
            places = sample.drawn(batch, len(batches), seed=done)
            for name in set(owners.values()) if sample.count else ():
                kept[name].append(inputs[name][places])
            mx.eval(squares_in, squares_out, kept)
            tokens += int(real.sum())
            supervised += int(batch.supervised[:, 1:].sum())
            on_progress(done + 1)
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


def _openings(batch: MicroBatch) -> np.ndarray:
    """(B, T-1) bool: positions that predict one of the first tokens of a row's first answer."""
    taught = batch.supervised[:, 1:]
    return taught & (np.cumsum(taught, axis=1) <= OPENING_TOKENS)


def _read_positions(batch: MicroBatch) -> np.ndarray:
    """(B, T-1) bool: positions up to the last supervised token, so that padding does not count."""
    later = np.maximum.accumulate(np.flip(batch.supervised[:, 1:], axis=1), axis=1)
    return np.ascontiguousarray(np.flip(later, axis=1))  # MLX takes no negative strides


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
    scaled = {owner: activations[owner] / root**0.5 for owner in owners_of(activations).values()}
    activations = {name: scaled[owner] for name, owner in owners_of(activations).items()}
    norms = np.array(
        [mx.square(output[n]).sum().item() ** 0.5 * mx.square(input_[n]).sum().item() ** 0.5 for n in names]
    )
    weights = (norms / norms.mean()) ** (1 / temperature)
    weights = weights / weights.mean()
    return Importance(
        output=output,
        input=input_,
        coefficients=dict(zip(names, weights.tolist(), strict=True)),
        tokens=tokens,
        activations=activations,
    )


class ImportanceGuard(MeasuredGuard[Importance]):
    """Base class of the guards whose state is an `Importance`."""

    def sample(self, options: PenaltyOptions) -> InputSample:
        """The inputs to keep; none, unless the guard says otherwise."""
        return InputSample()

    def measure(self, material: Material) -> Importance:
        rows, options, listener = material.rows, material.options, material.listener
        listener.stage(tr("importance"), len(rows))
        model, sample = material.base.model, self.sample(options)
        return measure_importance(model, rows, options.temperature, sample, listener.advance)

    def save(self, state: Importance, path: Path) -> None:
        state.save(path)

    def load(self, path: Path) -> Importance:
        return Importance.load(path)
