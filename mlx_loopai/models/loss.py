"""Cross-entropy of a linear head without ever building all logits.

Training, evaluation and diagnostics share this one loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.models.decoder import head_layer
from mlx_loopai.models.exponentials import exp
from mlx_loopai.models.pass_sizes import DEFAULT_CHUNK_ROWS


@dataclass(frozen=True)
class Head:
    """The output projection as plain arrays: dense `(weight,)` or quantised `(weight, scales, biases)`.

    `weight` is (V, D), packed along D when quantised.
    """

    arrays: tuple[mx.array, ...]
    group_size: int = 0
    bits: int = 0
    mode: str = "affine"

    @staticmethod
    def of(model: nn.Module) -> Head:
        """The head of an mlx-lm causal model, tied or not, dense or quantised."""
        layer = head_layer(model)
        if not hasattr(layer, "bits"):
            return Head((layer.weight,))
        arrays = [layer.weight, layer.scales]
        if layer.get("biases") is not None:
            arrays.append(layer.biases)
        return Head(tuple(arrays), layer.group_size, layer.bits, layer.mode)

    def project(self, arrays: Sequence[mx.array], rows: mx.array, transpose: bool) -> mx.array:
        """(N, D) -> (N, V) with `transpose`, (N, V) -> (N, D) without."""
        if not self.bits:
            weight = arrays[0]
            return rows.astype(weight.dtype) @ (weight.T if transpose else weight)
        return mx.quantized_matmul(rows, *arrays, transpose=transpose, **self._quantization())

    def rows(self, arrays: Sequence[mx.array], places: mx.array) -> mx.array:
        """Rows `places` (N,) of the matrix, as (N, D) in float32."""
        found = [array[places] for array in arrays]
        if not self.bits:
            return found[0].astype(mx.float32)
        return mx.dequantize(*found, **self._quantization(), dtype=mx.float32)

    def _quantization(self) -> dict:
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}


@dataclass(frozen=True)
class LossTerms:
    """Terms added to a token's negative log-likelihood: label smoothing and z-loss. 0 turns each off.

    Per token, with s the scores and L their log-sum-exp: `label_smoothing` e gives (1 - e) (L - s_target) +
    e (L - mean s); `z_loss` z adds z L^2, which keeps the scores from drifting.

    Source: label smoothing of arXiv 1512.00567 (section 7), z-loss of arXiv 2204.02311 (section 5).
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0


PLAIN = LossTerms()


@dataclass(frozen=True)
class HeadForm:
    """How the head's loss is computed. `chunk_rows`: rows of logits alive at once.

    `spare` is for the compiled step: the same result up to rounding, with fewer passes over the scores and fewer
    buffers.
    """

    chunk_rows: int = DEFAULT_CHUNK_ROWS
    terms: LossTerms = PLAIN
    spare: bool = False


DEFAULT_HEAD_FORM = HeadForm()


def linear_cross_entropy(
    hidden: mx.array,
    head: Head,
    targets: mx.array,
    weights: mx.array,
    form: HeadForm = DEFAULT_HEAD_FORM,
    train_head: bool = False,
) -> mx.array:
    """Weighted sum of the losses of `targets`, in nats, float32 scalar: a lazy graph, for `mx.compile` and autograd.

    hidden (N, D): final states of the supervised positions only; targets (N,) int; weights (N,) float, 0 for padding.
    At most `form.chunk_rows` rows of logits are alive at once: the gradient is computed in the forward pass, chunk
    after chunk (`mx.depends` chains them, since a lazy graph would otherwise run them together). Log-sum-exp is float32
    whatever the dtype of the model. With `train_head`, for pretraining, a dense head gets its gradient too; it does not
    go together with `form.spare`. `models/eager_loss.py` computes the same eagerly, for CPUs.

    Source: the gradient-in-forward idea is that of Cut Cross-Entropy (arXiv 2411.09009) and Liger; ours stays in plain
    MLX operations, so that it runs on CPU and Metal alike.
    """

    chunk_rows, terms = form.chunk_rows, form.terms

    def forward(hidden: mx.array, *arrays: mx.array) -> tuple[mx.array, ...]:
        total = mx.zeros((), mx.float32)
        hidden_gradients: list[mx.array] = []
        head_gradient = mx.zeros(arrays[0].shape, mx.float32) if train_head else None
        for start in range(0, hidden.shape[0], chunk_rows):
            part = slice(start, start + chunk_rows)
            rows, goal, weight = hidden[part], targets[part], weights[part]
            if hidden_gradients:
                # Both: a loss left for later would keep its chunk's scores alive until the end.
                (rows,) = mx.depends([rows], [hidden_gradients[-1], total])
            if form.spare:
                chunk_loss, gradient = _spare_chunk(head, arrays, rows, (goal, weight), terms)
            else:
                chunk_loss, pull = _softmax_terms(head.project(arrays, rows, transpose=True), goal, weight, terms)
                gradient = head.project(arrays, pull.astype(hidden.dtype), transpose=False)
                if head_gradient is not None:
                    head_gradient = head_gradient + pull.T @ rows.astype(mx.float32)
            total = total + chunk_loss
            hidden_gradients.append(gradient.astype(hidden.dtype))
        results = [total, mx.concatenate(hidden_gradients)]
        return tuple([*results, head_gradient] if head_gradient is not None else results)

    loss = mx.custom_function(forward)

    @loss.vjp
    def backward(
        primals: Sequence[mx.array], cotangents: Sequence[mx.array], outputs: Sequence[mx.array]
    ) -> tuple[mx.array, ...]:
        scale = cotangents[0]
        gradients = [outputs[1] * scale.astype(outputs[1].dtype)]
        gradients += [mx.zeros_like(array) for array in primals[1:]]
        if train_head:
            gradients[1] = (outputs[2] * scale).astype(primals[1].dtype)
        return tuple(gradients)

    return loss(hidden, *head.arrays)[0]


def _spare_chunk(
    head: Head, arrays: Sequence[mx.array], rows: mx.array, goals: tuple[mx.array, mx.array], terms: LossTerms
) -> tuple[mx.array, mx.array]:
    """(weighted loss, its gradient wrt `rows` (C, D) in float32); goals: targets (C,) and weights (C,).

    There is one buffer of scores and one of their exponentials, in which the target's is set to 0. What the target adds
    to the gradient is its row of the head times minus the sum of all the others: rounding cannot lose that.
    """
    (targets, weights), smoothing, z_loss = goals, terms.label_smoothing, terms.z_loss
    scores = head.project(arrays, rows, transpose=True).astype(mx.float32)
    goal, weight = targets[:, None], weights[:, None]
    peak = scores.max(axis=-1, keepdims=True)
    picked = mx.take_along_axis(scores, goal, axis=-1)
    others = mx.put_along_axis(exp(scores - peak), goal, mx.zeros(peak.shape), axis=-1)
    apart, at_goal = others.sum(axis=-1, keepdims=True), exp(picked - peak)
    total = apart + at_goal
    log_total = mx.log(total) + peak
    losses = log_total - picked
    pulled, of_goal = weight / total, -(1 - smoothing) * apart
    gradient = head.project(arrays, others.astype(rows.dtype), transpose=False).astype(mx.float32)
    if z_loss:
        losses = losses + z_loss * mx.square(log_total)
        gradient, of_goal = (1 + 2 * z_loss * log_total) * gradient, of_goal + 2 * z_loss * log_total * at_goal
    if smoothing:
        losses = losses + smoothing * (picked - scores.mean(axis=-1, keepdims=True))
        even = mx.full((1, scores.shape[-1]), smoothing / scores.shape[-1], rows.dtype)
        gradient = gradient - total * head.project(arrays, even, transpose=False)
        of_goal = of_goal + smoothing * at_goal
    gradient = pulled * (gradient + of_goal * head.rows(arrays, targets))
    return (losses * weight).sum(), gradient


def _softmax_terms(
    logits: mx.array, targets: mx.array, weights: mx.array, terms: LossTerms
) -> tuple[mx.array, mx.array]:
    """(weighted loss, its gradient wrt the logits (C, V) in float32), with one exponential per logit.

    The target's 1 is subtracted before anything is rounded. In half precision, the gradient of an almost certain token
    would otherwise be lost as the difference of two nearly equal numbers.
    """
    smoothing, z_loss = terms.label_smoothing, terms.z_loss
    scores = logits.astype(mx.float32)
    goal = targets[:, None]
    peak = mx.stop_gradient(scores.max(axis=-1, keepdims=True))
    exponent = mx.exp(scores - peak)
    total = exponent.sum(axis=-1, keepdims=True)
    log_total = mx.log(total) + peak
    picked = mx.take_along_axis(scores, goal, axis=-1)
    losses = log_total - picked
    at_goal = mx.exp(picked - peak)
    if z_loss:
        losses = losses + z_loss * mx.square(log_total)
        pulled = 1 + 2 * z_loss * log_total
        exponent, at_goal = exponent * pulled, at_goal * pulled
    pull = mx.put_along_axis(exponent, goal, at_goal - (1 - smoothing) * total, axis=-1)
    if smoothing:
        losses = losses + smoothing * (picked - scores.mean(axis=-1, keepdims=True))
        pull = pull - smoothing / scores.shape[-1] * total
    return (losses[:, 0] * weights).sum(), pull * (weights[:, None] / total)
