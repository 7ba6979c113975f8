"""KL divergence of a linear head's distributions from the base's, without ever building all logits."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from mlx_loopai.models.exponentials import exp
from mlx_loopai.models.loss import Head
from mlx_loopai.models.pass_sizes import DEFAULT_CHUNK_ROWS

_NEVER = -1e30  # a score whose exponential is 0 and whose differences stay finite


def linear_divergence(
    hidden: mx.array,
    base_hidden: mx.array,
    head: Head,
    weights: mx.array,
    left_out: mx.array | None = None,
    chunk_rows: int = DEFAULT_CHUNK_ROWS,
) -> mx.array:
    """Weighted sum of KL(base || adapted) over N positions, in nats, float32 scalar; only `hidden` gets a gradient.

    hidden, base_hidden (N, D): final states with the adapter on and off; weights (N,) float. With `left_out` (N,) int,
    that token is removed from both distributions and the rest renormalised; -1 removes none. As in
    `linear_cross_entropy`, at most `chunk_rows` rows of logits are alive at once and log-sum-exp is float32.

    Source: KL to the base, as in arXiv 2509.04259; the removed target is that of arXiv 2605.29498.
    """

    def forward(hidden: mx.array, base_hidden: mx.array, *arrays: mx.array) -> tuple[mx.array, mx.array]:
        total = mx.zeros((), mx.float32)
        gradients: list[mx.array] = []
        for start in range(0, hidden.shape[0], chunk_rows):
            part = slice(start, start + chunk_rows)
            rows, base_rows = hidden[part], base_hidden[part]
            if gradients:
                rows, base_rows = mx.depends([rows, base_rows], [gradients[-1], total])
            scores, base_scores = (
                _without(head.project(arrays, states, transpose=True), left_out, part) for states in (rows, base_rows)
            )
            divergence, pull = _divergence_terms(scores, base_scores, weights[part])
            total = total + divergence
            gradient = head.project(arrays, pull.astype(hidden.dtype), transpose=False)
            gradients.append(gradient.astype(hidden.dtype))
        return total, mx.concatenate(gradients)

    divergence = mx.custom_function(forward)

    @divergence.vjp
    def backward(
        primals: Sequence[mx.array], cotangents: Sequence[mx.array], outputs: Sequence[mx.array]
    ) -> tuple[mx.array, ...]:
        gradient = outputs[1] * cotangents[0].astype(outputs[1].dtype)
        return (gradient, *(mx.zeros_like(array) for array in primals[1:]))

    # What a custom function reads and a compiled graph computes has to be an argument of it.
    return divergence(hidden, mx.stop_gradient(base_hidden), *head.arrays)[0]


def _without(logits: mx.array, left_out: mx.array | None, part: slice) -> mx.array:
    scores = logits.astype(mx.float32)
    if left_out is None:
        return scores
    goal = left_out[part][:, None]
    place = mx.maximum(goal, 0)
    kept = mx.where(goal < 0, mx.take_along_axis(scores, place, axis=-1), _NEVER)
    return mx.put_along_axis(scores, place, kept, axis=-1)


def _divergence_terms(scores: mx.array, base_scores: mx.array, weights: mx.array) -> tuple[mx.array, mx.array]:
    """(weighted KL(base || adapted), its gradient wrt the adapted scores (C, V)).

    Probabilities come from the log-sum-exp: exponentials that are kept for a division later would each take a buffer.
    """
    log_total, base_log_total = (mx.logsumexp(each, axis=-1, keepdims=True) for each in (scores, base_scores))
    base = exp(base_scores - base_log_total)
    apart = (base * (base_scores - scores)).sum(-1, keepdims=True)
    losses = apart + log_total - base_log_total
    return (losses[:, 0] * weights).sum(), (exp(scores - log_total) - base) * weights[:, None]
