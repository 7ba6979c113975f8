"""Statistics of attention heads: which scripts each head looks at, how widely, and how far back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_loopai.models.attention import watched_attention
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.vision.pictures import Pictures

_Floats = npt.NDArray[np.float32]
_ROWS = 256  # queries whose weights are alive at once


@dataclass(frozen=True)
class Attention:
    """Means over all queries of all sequences.

    classes: names of the C token classes. mass (L, H, C): attention on tokens of a class, divided by what uniform
    attention would give them (1: no preference). entropy (L, H): relative to that of uniform attention (1: uniform).
    distance (L, H): mean distance back in tokens.
    """

    classes: tuple[str, ...]
    mass: _Floats
    entropy: _Floats
    distance: _Floats


def attention(
    model: nn.Module,
    sequences: Sequence[Sequence[int]],
    classes: Sequence[str],
    pictures: Sequence[Pictures | None] | None = None,
) -> Attention:
    """Statistics of every head over `sequences` of token ids; `classes[token]` names each token's class.

    pictures: the features for the picture tokens of each sequence; None: all sequences are text.

    Weights exist for 256 queries of one block at a time, so that memory grows with the length, not with its square.
    """
    names = tuple(sorted(set(classes)))
    members = np.array([names.index(name) for name in classes])
    sums: dict[int, list[_Floats]] = {}
    queries = 0
    for ids, shown in zip(sequences, pictures or [None] * len(sequences), strict=True):
        held = np.eye(len(names), dtype=np.float32)[members[np.asarray(ids)]]
        seen = mx.array(held)
        even = mx.array(np.cumsum(held, axis=0) / np.arange(1, len(ids) + 1)[:, None])

        def look(
            block: int, q: mx.array, k: mx.array, scale: float, seen: mx.array = seen, even: mx.array = even
        ) -> None:
            found = _head_sums(q[0], k[0], scale, seen, even)
            before = sums.get(block)
            sums[block] = found if before is None else [a + b for a, b in zip(before, found, strict=True)]

        with watched_attention(model, look):
            mx.eval(hidden_states(model, mx.array([list(ids)]), pictures=shown))
        queries += len(ids) - 1  # the first token can only look at itself
    ordered = [sums[block] for block in sorted(sums)]
    mass, entropy, distance = (
        (np.stack([found[part] for found in ordered]) / max(1, queries)).astype(np.float32) for part in range(3)
    )
    return Attention(names, mass, entropy, distance)


def _head_sums(q: mx.array, k: mx.array, scale: float, seen: mx.array, even: mx.array) -> list[_Floats]:
    """Sums over queries of (mass (H, C), entropy (H,), distance (H,)); q (H, T, D), k (K, T, D)."""
    heads, length, _ = q.shape
    keys = mx.repeat(k, heads // k.shape[0], axis=0).astype(mx.float32)
    places = mx.arange(length)
    totals = [mx.zeros((heads, seen.shape[1])), mx.zeros(heads), mx.zeros(heads)]
    for start in range(1, length, _ROWS):
        rows = places[start : start + _ROWS]
        scores = (q[:, start : start + _ROWS].astype(mx.float32) @ keys.swapaxes(-1, -2)) * scale
        weights = mx.softmax(mx.where(places[None, :] <= rows[:, None], scores, -1e30), axis=-1)
        share = even[start : start + _ROWS]
        preference = mx.where(share > 0, (weights @ seen) / mx.maximum(share, 1e-9), 1.0)
        bits = -(weights * mx.log2(mx.maximum(weights, 1e-30))).sum(-1) / mx.log2((rows + 1).astype(mx.float32))
        back = (weights * (rows[:, None] - places[None, :])).sum(-1)
        totals = [total + part.sum(1) for total, part in zip(totals, (preference, bits, back), strict=True)]
        mx.eval(totals)
    return [np.array(total) for total in totals]
