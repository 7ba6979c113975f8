"""Loss and gradient of one micro-batch: as one compiled graph, or with the head's part computed eagerly in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_loopai.config import TrainPath
from mlx_loopai.models.attention import attending_by_power
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.divergence import linear_divergence
from mlx_loopai.models.eager_loss import divergence_and_gradient, loss_and_gradient
from mlx_loopai.models.exponentials import within_compiled_graph
from mlx_loopai.models.lora import adapter_disabled, computed_jointly
from mlx_loopai.models.loss import Head, HeadForm, linear_cross_entropy
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.models.pass_sizes import CHUNKS_AHEAD, FEWEST_CHUNK_ROWS, LONGEST_KEPT, PAD_TARGETS_TO
from mlx_loopai.models.vision.pictures import Pictures


@dataclass(frozen=True)
class Targets:
    """The supervised positions of a micro-batch: arrays of N, padded to a multiple with positions of weight 0.

    rows, columns: index the hidden states whose next token is `tokens`. Where KL to the base is part of the loss,
    `divergence` (N,) is its weight, `left_out` (N,) the token that it leaves out (-1: none; None: none anywhere), and
    `base` (N, D) holds the base's states, if they are known. learns: whether any token has a weight; where only KL to
    the base counts, the loss of the tokens need not be computed.
    """

    rows: mx.array
    columns: mx.array
    tokens: mx.array
    weights: mx.array
    divergence: mx.array | None = None
    left_out: mx.array | None = None
    base: mx.array | None = None
    learns: bool = True

    @staticmethod
    def of(batch: MicroBatch) -> Targets:
        rows, columns = np.nonzero(batch.supervised[:, 1:])
        tokens = batch.ids[rows, columns + 1]
        weights = np.ones(len(rows), np.float32) if batch.weights is None else batch.weights[rows, columns + 1]
        found: dict[str, np.ndarray] = {"rows": rows, "columns": columns, "tokens": tokens, "weights": weights}
        if batch.divergence is not None:
            rehearsed = np.zeros(len(rows), np.bool_) if batch.rehearsal is None else batch.rehearsal[rows]
            found["divergence"] = batch.divergence[rows, columns + 1]
            if not rehearsed.all():
                found["left_out"] = np.where(rehearsed, -1, tokens)
            if batch.base_states is not None:
                order = np.cumsum(batch.supervised[:, 1:], axis=1)[rows, columns] - 1
                found["base"] = batch.base_states[rows, order]
        if batch.candidates is not None:
            found = _at_candidates(found, batch.candidates[rows])
        # Few distinct counts, so that a compiled step is traced for few shapes.
        padding = (0, -len(found["rows"]) % PAD_TARGETS_TO)
        return Targets(
            learns=batch.divergence is None or bool(found["weights"].any()),
            **{name: mx.array(np.pad(each, (padding, *[(0, 0)] * (each.ndim - 1)))) for name, each in found.items()},
        )

    @property
    def places(self) -> tuple[mx.array, mx.array]:
        """Where the hidden states lie."""
        return self.rows, self.columns

    @property
    def arrays(self) -> dict[str, mx.array]:
        """The arrays that are set, by their names: with `learns`, all that makes an equal one."""
        return {name: array for name, array in vars(self).items() if isinstance(array, mx.array)}


def _at_candidates(targets: dict[str, np.ndarray], candidates: npt.NDArray[np.void]) -> dict[str, np.ndarray]:
    """`targets`, arrays of N, in which the `candidates` (N, K) of a position take the place of its target.

    Each candidate is a target with a weight of its own. The first of a position counts its KL to the base, of which
    nothing is left out. First ones come before all others, so that the base is compared at few places.
    """
    is_position = candidates["token"][:, :1] >= 0
    taken = candidates["token"] >= 0
    taken[:, :1] = True
    order, rows = np.nonzero(taken.T)
    at = is_position[rows, 0]
    found = {name: array[rows] for name, array in targets.items()}
    found["tokens"] = np.where(at, candidates["token"][rows, order], found["tokens"])
    found["weights"] = np.where(at, candidates["weight"][rows, order], found["weights"])
    if "divergence" in found:
        found["divergence"] = np.where(order > 0, 0, found["divergence"])
    if "left_out" in found:
        found["left_out"] = np.where(at, -1, found["left_out"])
    return found


@dataclass(frozen=True)
class LossForm(HeadForm):
    """How a model's loss is computed. With `checkpointing` its blocks run again in the backward pass."""

    checkpointing: bool = False


DEFAULT_FORM = LossForm()


class Gradient(Protocol):
    """ids (B, T), targets, pictures, opening -> ((summed loss, the part of it that is KL to the base), gradient).

    opening: with how many equal tokens all rows begin, or 0 (`hidden_states`).
    """

    def __call__(
        self, ids: mx.array, targets: Targets, pictures: Pictures | None = None, opening: int = 0, /
    ) -> tuple[tuple[Any, Any], Any]: ...


def actual_path(path: TrainPath) -> Literal["compiled", "eager"]:
    """The path that `train.path` means on this machine: `auto` is compiled where MLX computes on a GPU."""
    if path == "auto":
        return "compiled" if mx.default_device() == mx.Device(mx.gpu) else "eager"
    return path


def compiled_gradient(model: nn.Module, form: LossForm) -> Gradient:
    """The gradient as one function of `mx.compile`, traced once for every shape."""
    form = replace(form, chunk_rows=max(FEWEST_CHUNK_ROWS, form.chunk_rows // CHUNKS_AHEAD), spare=True)

    def loss(
        ids: mx.array, opening: int, learns: bool, seen: dict[str, mx.array], arrays: dict[str, mx.array]
    ) -> tuple[mx.array, ...]:
        pictures = Pictures(**seen) if seen else None
        with within_compiled_graph(), computed_jointly(model), attending_by_power(model):
            return batch_loss(model, ids, Targets(**arrays, learns=learns), form, pictures, opening)

    state = [model.state, mx.random.state]
    compiled = mx.compile(_leaving_no_trace(model, loss), inputs=state, outputs=[mx.random.state])

    def run(
        ids: mx.array, targets: Targets, pictures: Pictures | None = None, opening: int = 0
    ) -> tuple[tuple[mx.array, Any], Any]:
        seen = {} if pictures is None else pictures.arrays
        (total, *apart), gradient = compiled(ids, opening, targets.learns, seen, targets.arrays)
        return (total, sum(apart)), gradient

    return run


def eager_gradient(model: nn.Module, form: LossForm) -> Gradient:
    """The same with the head's loss computed between the forward and the backward pass (models/eager_loss.py)."""

    def run(
        ids: mx.array, targets: Targets, pictures: Pictures | None = None, opening: int = 0
    ) -> tuple[tuple[float, float], Any]:
        def pulled() -> tuple[mx.array, mx.array, mx.array, mx.array | None]:
            """A scalar whose gradient is the backward pass for `cotangent`; the states, and the base's where it counts.

            The buffer of `cotangent` holds zeros now; it is filled below, before MLX runs that pass.
            """
            hidden = hidden_states(model, ids, form.checkpointing, targets.places, pictures, opening)
            cotangent = mx.zeros(hidden.shape)
            mx.eval(cotangent)
            base = None if targets.divergence is None else _base_states(model, ids, targets, pictures, opening)
            return (hidden.astype(mx.float32) * cotangent).sum(), hidden, cotangent, base

        with attending_by_power(model, longer_than=LONGEST_KEPT):
            (_, hidden, cotangent, base), gradient = nn.value_and_grad(model, pulled)()
        mx.eval(hidden, base)
        filled = np.array(cotangent, copy=False)
        loss, apart = _head_losses(hidden, base, Head.of(model), targets, form, filled)
        mx.eval(gradient)
        return (loss + apart, apart), gradient

    return run


def _head_losses(
    hidden: mx.array,
    base: mx.array | None,
    head: Head,
    targets: Targets,
    form: LossForm,
    filled: npt.NDArray[np.float32],
) -> tuple[float, float]:
    """(loss of the targets' tokens, KL to the base); `filled` (N, D), zeros, becomes the gradient wrt `hidden`.

    What weighs nothing is not computed: tokens where only KL to the base counts, and the padding.
    """
    loss = apart = 0.0
    weights = np.array(targets.weights)
    if used := _used(weights):
        goals = np.array(targets.tokens)[:used], weights[:used]
        loss, _ = loss_and_gradient(hidden[:used], head, *goals, form, out=filled[:used])
    if base is not None and targets.divergence is not None:
        factors = np.array(targets.divergence)
        used = _used(factors)
        left_out = None if targets.left_out is None else np.array(targets.left_out)[:used]
        apart, pull = divergence_and_gradient(
            hidden[:used], base[:used], head, factors[:used], left_out, form.chunk_rows
        )
        filled[:used] += pull
    return loss, apart


def _used(weights: npt.NDArray[np.float32]) -> int:
    """The number of positions up to the last one that weighs anything."""
    places = np.flatnonzero(weights)
    return int(places[-1]) + 1 if len(places) else 0


def batch_loss(
    model: nn.Module,
    ids: mx.array,
    targets: Targets,
    form: LossForm = DEFAULT_FORM,
    pictures: Pictures | None = None,
    opening: int = 0,
) -> tuple[mx.array, ...]:
    """(loss,) or (loss, the part of it that is KL to the base): nats summed over the positions of `targets`.

    ids (B, T), with `pictures` among them, or with rows of one `opening` (`hidden_states`).

    The loss is the negative log-likelihood of the targets' tokens times their weights; where they have a
    `divergence`, KL(base || adapted) times it is added, with the token `left_out` removed from both. The base is the
    model itself with its adapter switched off, unless the targets hold its states.
    """
    hidden = hidden_states(model, ids, form.checkpointing, targets.places, pictures, opening)
    loss = mx.zeros(())
    if targets.learns:
        loss = linear_cross_entropy(hidden, Head.of(model), targets.tokens, targets.weights, form)
    if targets.divergence is None:
        return (loss,)
    base = _base_states(model, ids, targets, pictures, opening).astype(hidden.dtype)
    apart = linear_divergence(hidden, base, Head.of(model), targets.divergence, targets.left_out, form.chunk_rows)
    return loss + apart, apart


def _base_states(
    model: nn.Module, ids: mx.array, targets: Targets, pictures: Pictures | None, opening: int
) -> mx.array:
    """The base's states (N, D) at the targets: those that are known, or else computed."""
    if targets.base is not None:
        return targets.base
    with adapter_disabled(model):
        return hidden_states(model, ids, positions=targets.places, pictures=pictures, opening=opening)


def _leaving_no_trace(
    model: nn.Module, loss: Callable[..., tuple[mx.array, ...]]
) -> Callable[..., tuple[tuple[mx.array, ...], Any]]:
    """`nn.value_and_grad` that leaves `model` with the arrays it had.

    MLX's own puts the arrays that it differentiates into the model. While a compiled function is traced these have no
    value, and the model would keep them.
    """
    value_and_gradient = nn.value_and_grad(model, loss)

    def run(*arguments: mx.array) -> tuple[tuple[mx.array, ...], Any]:
        before = model.trainable_parameters()
        result = value_and_gradient(*arguments)
        model.update(before)
        return result

    return run
