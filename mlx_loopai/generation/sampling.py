"""How the next token is chosen: penalty, truncation, and a draw that is a pure function of one uniform number."""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx_lm.sample_utils import apply_top_k

from mlx_loopai.config import SamplingOptions

# How many of the last tokens (the prompt's included) the repetition penalty looks at; mlx-lm's own choice.
PENALTY_CONTEXT = 20
# A cumulative sum may end an ulp below its parts' true total; the draw stays clear of that end.
_BELOW_ONE = 1 - 1e-6
_CANDIDATES = 1024


def penalty(factor: float) -> Callable[[mx.array, mx.array], mx.array]:
    """The repetition penalty as mlx-lm calls it, with a sequence's tokens (n) and its logits (1, V)."""
    return lambda tokens, logits: penalise(logits, tokens[None, -PENALTY_CONTEXT:], factor)


def penalty_context(prompts: list[list[int]]) -> mx.array:
    """The last PENALTY_CONTEXT tokens of each prompt; short ones repeat their first, which changes no penalty."""
    rows = [([ids[0]] * PENALTY_CONTEXT + ids)[-PENALTY_CONTEXT:] for ids in prompts]
    return mx.array(rows, dtype=mx.uint32)


def penalise(logits: mx.array, context: mx.array, penalty: float) -> mx.array:
    """Logits (B, V) with those of the tokens in context (B, C) made less likely by the factor `penalty`.

    Source: CTRL (arXiv 1909.05858), with the sign-aware factor that is usual since.
    """
    seen = mx.take_along_axis(logits, context, axis=-1)
    return mx.put_along_axis(logits, context, mx.where(seen < 0, seen * penalty, seen / penalty), axis=-1)


def choose(logits: mx.array, options: SamplingOptions, draw: Callable[[], list[float]]) -> mx.array:
    """One token a row of logits (B, V), by inverting the cumulative distribution at `draw()`'s uniform numbers (B).

    As in mlx-lm, unlikely tokens are cut off before the temperature is applied: top_p, min_p (Nguyen et al. 2024, arXiv
    2407.01082), top_k. Inversion needs one random number a row, where Gumbel noise needs V, so each row can have a seed
    of its own at no cost.
    """
    if options.temperature == 0:
        return mx.argmax(logits, axis=-1)
    scores = logits.astype(mx.float32)
    scores = scores - mx.max(scores, axis=-1, keepdims=True)
    ids = None
    if options.top_p < 1:
        goal = options.top_p * mx.sum(mx.exp(scores), axis=-1, keepdims=True)
        ids = _candidates(scores, goal)
        scores = nucleus(scores if ids is None else mx.take_along_axis(scores, ids, axis=-1), goal)
    if options.min_p > 0:
        scores = mx.where(scores < math.log(options.min_p), -mx.inf, scores)
    if 0 < options.top_k < scores.shape[-1]:
        scores = apply_top_k(scores, options.top_k)
    mass = mx.exp(scores / options.temperature)
    cumulative = mx.cumsum(mass, axis=-1)
    threshold = mx.array(draw())[:, None] * _BELOW_ONE * cumulative[:, -1:]
    # `mass > 0`: rounding of a parallel sum must never select a token that was ruled out.
    places = mx.argmax((cumulative > threshold) & (mass > 0), axis=-1)
    return places if ids is None else mx.take_along_axis(ids, places[:, None], axis=-1)[:, 0]


def nucleus(scores: mx.array, goal: mx.array) -> mx.array:
    """Scores (B, n) with -inf for all but the largest, which together reach the mass `goal` (B, 1).

    Source: Holtzman et al. 2020 (arXiv 1904.09751); tokens of the same score as the last one needed stay too.
    """
    ordered = mx.sort(scores, axis=-1)
    above = mx.cumsum(mx.exp(ordered), axis=-1, reverse=True, inclusive=False)
    n_dropped = mx.sum(above >= goal, axis=-1, keepdims=True)
    return mx.where(scores < mx.take_along_axis(ordered, n_dropped, axis=-1), -mx.inf, scores)


def _candidates(scores: mx.array, goal: mx.array) -> mx.array | None:
    """The ids (B, n), in order, of some tokens that hold the nucleus; None where all must be sorted.

    Sorting a vocabulary of 150,000 takes one core 45 ms; finding its thousand largest takes 2 ms. Checking whether
    these are enough means waiting for the device, which costs nothing on a CPU; elsewhere everything is sorted.
    """
    n_tokens = scores.shape[-1]
    if n_tokens <= _CANDIDATES or mx.default_device() != mx.Device(mx.cpu):
        return None
    largest = mx.argpartition(scores, n_tokens - _CANDIDATES, axis=-1)[:, -_CANDIDATES:]
    ids = mx.sort(largest, axis=-1)
    mass = mx.sum(mx.exp(mx.take_along_axis(scores, ids, axis=-1)), axis=-1, keepdims=True)
    return ids if mx.all(mass >= goal).item() else None


def uniforms(options: SamplingOptions, row: int, count: int) -> npt.NDArray[np.float32]:
    if options.temperature == 0:
        return np.zeros(1, dtype=np.float32)
    return np.random.default_rng([options.seed, row]).random(count, dtype=np.float32)
