"""The head's loss and gradient for CPUs: computed eagerly in NumPy, chunk by chunk, with a buffer of scores per model.

On a CPU MLX's exponential is a scalar loop (about 30 million a second here). NumPy's is vectorised (380 million), and
works in place on the buffer that MLX wrote. A lazy graph (`models/loss.py`) also allocates ahead of what has run: eight
buffers, where this needs one. Matrix products stay MLX's.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_loopai.models.loss import DEFAULT_HEAD_FORM, Head, HeadForm, LossTerms
from mlx_loopai.models.pass_sizes import DEFAULT_CHUNK_ROWS

# Scores worked on at a time: as many as a core's cache holds.
_BLOCK_ENTRIES = 1 << 18

# A score whose exponential is 0 and whose differences stay finite.
_NEVER = np.float32(-1e30)

_Floats = npt.NDArray[np.float32]
_Ints = npt.NDArray[np.integer]


def loss_and_gradient(
    hidden: mx.array,
    head: Head,
    targets: _Ints,
    weights: _Floats,
    form: HeadForm = DEFAULT_HEAD_FORM,
    out: _Floats | None = None,
) -> tuple[float, _Floats]:
    """(weighted sum of the losses in nats, its gradient wrt `hidden` as float32 (N, D), written to `out` when given).

    The same as `linear_cross_entropy` and its gradient: hidden (N, D), targets (N,), weights (N,). `form.spare` has no
    effect here.
    """
    gradient = np.empty(hidden.shape, np.float32) if out is None else out
    total = 0.0
    for part in _chunks(len(targets), form.chunk_rows):
        loss, gradient[part] = _chunk(hidden[part], head, targets[part], weights[part], form.terms)
        total += loss
    return total, gradient


def _chunk(rows: mx.array, head: Head, targets: _Ints, weights: _Floats, terms: LossTerms) -> tuple[float, _Floats]:
    """A function of its own, so that a chunk's scores are freed before the next one's come."""
    scores = _scores(rows, head)
    loss = _terms_in_place(np.array(scores, copy=False), targets, weights, terms)
    pulled = head.project(head.arrays, scores.astype(rows.dtype), transpose=False)
    return loss, np.array(pulled.astype(mx.float32), copy=False)


def divergence_and_gradient(
    hidden: mx.array,
    base_hidden: mx.array,
    head: Head,
    weights: _Floats,
    left_out: _Ints | None = None,
    chunk_rows: int = DEFAULT_CHUNK_ROWS,
) -> tuple[float, _Floats]:
    """(weighted sum of KL(base || adapted) in nats, its gradient wrt `hidden` as float32 (N, D)).

    The same as `linear_divergence` and its gradient: hidden, base_hidden (N, D), weights (N,), left_out (N,) or None.
    """
    gradient = np.empty(hidden.shape, np.float32)
    total = 0.0
    # Base and adapted scores are alive together, in the memory that a chunk of the loss takes.
    for part in _chunks(len(weights), max(1, chunk_rows // 2)):
        scores, base_scores = (_scores(states[part], head) for states in (hidden, base_hidden))
        views = np.array(scores, copy=False), np.array(base_scores, copy=False)
        if left_out is not None:
            (rows,) = np.nonzero(left_out[part] >= 0)
            for view in views:
                view[rows, left_out[part][rows]] = _NEVER
        with np.errstate(all="ignore"):  # a value that is not finite shows in the sum, where the caller looks for it
            for block in _blocks(views[0]):
                found = _divergences_in_place(views[0][block], views[1][block], weights[part][block])
                total += float(found.astype(np.float64) @ weights[part][block])
        del base_scores, views
        pulled = head.project(head.arrays, scores.astype(hidden.dtype), transpose=False)
        gradient[part] = np.array(pulled.astype(mx.float32), copy=False)
    return total, gradient


def _divergences_in_place(scores: _Floats, base: _Floats, weights: _Floats) -> _Floats:
    """KL(base || adapted) of some rows; `scores` becomes its weighted gradient, and `base` is used up."""
    losses, _, total, base_total = _divergences(scores, base)
    scores *= (weights / total)[:, None]
    base *= (weights / base_total)[:, None]
    scores -= base
    return losses


def _divergences(scores: _Floats, base: _Floats) -> tuple[_Floats, _Floats, _Floats, _Floats]:
    """(KL(base || adapted), log-sum-exp of `scores`, sums of the exponentials of both), each (C,).

    Both arrays become these exponentials.
    """
    apart = base - scores
    (log_total, total), (base_log_total, base_total) = _exponents(scores), _exponents(base)
    apart *= base
    return apart.sum(axis=1) / base_total + log_total - base_log_total, log_total, total, base_total


def token_losses_and_divergences(
    hidden: mx.array, base_hidden: mx.array, head: Head, targets: _Ints, chunk_rows: int
) -> tuple[_Floats, _Floats]:
    """(negative log-likelihood of every target, KL(base || adapted) at its place), each float32 (N,), in nats.

    The same as `token_losses` and the KL alone, with one product with the head less. hidden, base_hidden (N, D).
    """
    chunks = _chunks(len(targets), chunk_rows)
    parts = [_chunk_readings(hidden[part], base_hidden[part], head, targets[part]) for part in chunks]
    return np.concatenate([losses for losses, _ in parts]), np.concatenate([apart for _, apart in parts])


def _chunk_readings(rows: mx.array, base_rows: mx.array, head: Head, targets: _Ints) -> tuple[_Floats, _Floats]:
    scores, base = _scores(rows, head), _scores(base_rows, head)
    if mx.metal.is_available():
        picked = mx.take_along_axis(scores, mx.array(targets)[:, None], axis=-1)[:, 0]
        total, base_total = mx.logsumexp(scores, axis=-1), mx.logsumexp(base, axis=-1, keepdims=True)
        apart = (mx.exp(base - base_total) * (base - scores)).sum(axis=-1)
        return np.array(total - picked), np.array(apart + total - base_total[:, 0])
    view, base_view = np.array(scores, copy=False), np.array(base, copy=False)
    picked = view[np.arange(len(targets)), targets]
    with np.errstate(all="ignore"):  # what is not finite is for the caller to see
        found = [_divergences(view[block], base_view[block])[:2] for block in _blocks(view)]
    apart, log_total = (np.concatenate(each) for each in zip(*found, strict=True))
    return log_total - picked, apart


def token_losses(hidden: mx.array, head: Head, targets: _Ints, chunk_rows: int) -> _Floats:
    """Negative log-likelihood of every target in nats: float32 (N,)."""
    parts = [_chunk_losses(hidden[part], head, targets[part]) for part in _chunks(len(targets), chunk_rows)]
    return np.concatenate(parts)


def _chunk_losses(rows: mx.array, head: Head, targets: _Ints) -> _Floats:
    scores = _scores(rows, head)
    if mx.metal.is_available():
        picked = mx.take_along_axis(scores, mx.array(targets)[:, None], axis=-1)[:, 0]
        return np.array(mx.logsumexp(scores, axis=-1) - picked)
    view = np.array(scores, copy=False)
    return np.concatenate([_exponents_in_place(view[block], targets[block])[0] for block in _blocks(view)])


def _chunks(rows: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _blocks(scores: _Floats) -> list[slice]:
    return _chunks(len(scores), max(1, _BLOCK_ENTRIES // scores.shape[1]))


def _scores(rows: mx.array, head: Head) -> mx.array:
    """The scores (C, V) of a chunk in float32, in a buffer of their own."""
    scores = head.project(head.arrays, rows, transpose=True).astype(mx.float32)
    mx.eval(scores)
    return scores


def _terms_in_place(scores: _Floats, targets: _Ints, weights: _Floats, terms: LossTerms) -> float:
    """The weighted loss of a chunk; `scores` (C, V) becomes its gradient."""
    total = 0.0
    with np.errstate(all="ignore"):  # a value that is not finite shows in the loss, where the caller looks for it
        for part in _blocks(scores):
            losses = _block_in_place(scores[part], targets[part], weights[part], terms)
            total += float(losses.astype(np.float64) @ weights[part])
    return total


def _block_in_place(scores: _Floats, targets: _Ints, weights: _Floats, terms: LossTerms) -> _Floats:
    """Losses of some rows; `scores` becomes their weighted gradient. Same formulas as `loss._softmax_terms`."""
    rows, smoothing, z_loss = np.arange(len(scores)), terms.label_smoothing, terms.z_loss
    spread = scores[rows, targets] - scores.mean(axis=1) if smoothing else 0.0
    losses, log_total, total = _exponents_in_place(scores, targets)
    losses += smoothing * spread + z_loss * np.square(log_total)
    pulled = 1 + 2 * z_loss * log_total
    if z_loss:
        scores *= pulled[:, None]
    scores[rows, targets] -= (1 - smoothing) * total
    if smoothing:
        scores -= (smoothing / scores.shape[1] * total)[:, None]
    scores *= (weights / total)[:, None]
    return losses


def _exponents_in_place(scores: _Floats, targets: _Ints) -> tuple[_Floats, _Floats, _Floats]:
    """(losses, log-sum-exp, sum of the exponentials), each (C,); `scores` becomes its exponentials less the peak."""
    picked = scores[np.arange(len(scores)), targets]
    with np.errstate(all="ignore"):  # what is not finite is for the caller to see in the loss
        log_total, total = _exponents(scores)
        return log_total - picked, log_total, total


def _exponents(scores: _Floats) -> tuple[_Floats, _Floats]:
    """(log-sum-exp, sum of the exponentials less the peak), each (C,); `scores` becomes these exponentials."""
    peak = scores.max(axis=1)
    scores -= peak[:, None]
    np.exp(scores, out=scores)
    total = scores.sum(axis=1)
    return np.log(total) + peak, total
