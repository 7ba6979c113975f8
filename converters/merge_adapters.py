"""Merges several adapters of one base into one, by `cat`, `svd`, `ties` or `dare`.

`cat` is exact: updates add when factors are laid side by side, [A1 A2][B1; B2] = A1 B1 + A2 B2, so the rank is the sum
of the ranks. `svd` is the nearest update of a chosen rank. `ties` and `dare` combine dense updates, then reduce the
rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx_loopai  # noqa: F401  # before mlx: on Linux it loads the fast BLAS

# isort: split
import mlx.core as mx
import numpy as np

from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr
from mlx_loopai.models.adapter_folder import Adapter, complete

METHODS = ("cat", "svd", "ties", "dare")
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Merge:
    """How to merge. `rank` belongs to all but cat; `density` is the share of a delta that ties and dare keep."""

    method: str = "cat"
    weights: tuple[float, ...] = ()
    rank: int | None = None
    density: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Merged:
    """The adapter, and by module the relative error of the reduction in the Frobenius norm (0 for cat)."""

    adapter: Adapter
    errors: dict[str, float]


def merge(adapters: Sequence[Adapter], how: Merge, force: bool = False, on_progress: Progress | None = None) -> Merged:
    """One adapter whose update is the weighted sum of the given ones (for ties and dare, what they make of it).

    Modules that some adapters lack count as zero there. One adapter with weight 1 and `cat` comes back unchanged.

    Raises:
        InputError: weights or rank that do not fit, different bases (unless `force`), or one that is for pictures only.
    """
    for adapter in adapters:
        adapter.check_scope()
    weights = how.weights or (1.0,) * len(adapters)
    _check(adapters, weights, how, force)
    advance = on_progress or (lambda count: None)
    stacked = _side_by_side(adapters, weights)
    bases = [adapter.notes for adapter in adapters if adapter.base_hash]
    notes: dict[str, Any] = {key: bases[0][key] for key in ("base_hash", "base") if bases and key in bases[0]}
    notes["merged"] = {"method": how.method, "weights": list(weights), "ranks": [a.rank for a in adapters]}
    if how.method == "cat":
        return Merged(replace(stacked, notes=notes), dict.fromkeys(stacked.factors, 0.0))
    rank = how.rank or max(adapter.rank for adapter in adapters)
    notes["merged"] |= {"rank": rank} | ({} if how.method == "svd" else {"density": how.density, "seed": how.seed})
    factors, errors = {}, {}
    for name in stacked.factors:
        if how.method == "svd":
            a, b, errors[name] = truncate_factors(*_numpy(stacked.factors[name]), rank, stacked.scale)
        else:
            deltas = [_delta(one, name, weight) for one, weight in zip(adapters, weights, strict=True)]
            a, b, errors[name] = truncate_dense(_combined(deltas, how, name), rank)
        factors[name] = (mx.array(a), mx.array(b))
        advance(1)
    return Merged(Adapter(factors, rank=rank, alpha=float(rank), notes=notes), errors)


def _check(adapters: Sequence[Adapter], weights: Sequence[float], how: Merge, force: bool) -> None:
    problems = []
    if len(weights) != len(adapters):
        problems.append(
            tr("`weights` has {numbers} numbers for {adapters} adapters", numbers=len(weights), adapters=len(adapters))
        )
    if not all(np.isfinite(weights)):
        problems.append(tr("`weights` must be finite"))
    if how.method == "cat" and how.rank is not None:
        problems.append(tr("`rank` belongs to svd, ties and dare; cat's rank is the sum"))
    if how.rank is not None and how.rank < 1:
        problems.append(tr("`rank` {rank} is not positive", rank=how.rank))
    if not 0 < how.density <= 1:
        problems.append(tr("`density` {density} is not above 0 and at most 1", density=how.density))
    bases = sorted({adapter.base_hash for adapter in adapters if adapter.base_hash})
    if len(bases) > 1 and not force:
        problems.append(
            tr(
                "they were trained on different bases ({bases}); `force` merges them",
                bases=", ".join(base[:12] for base in bases),
            )
        )
    shapes: dict[str, tuple[int, int]] = {}
    for adapter in adapters:
        for name, (a, b) in adapter.factors.items():
            shape = (a.shape[0], b.shape[1])
            if shapes.setdefault(name, shape) != shape:
                problems.append(
                    tr(
                        "{name} is {first} in one and {shape} in another adapter",
                        name=name,
                        first=shapes[name],
                        shape=shape,
                    )
                )
    if problems:
        raise InputError(tr("cannot merge: {problems}", problems=all_problems(problems, 4)))


def _side_by_side(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """The exact sum. The first adapter's scale stays; the others' are folded into their B."""
    rank, scale = sum(adapter.rank for adapter in adapters), adapters[0].scale
    shapes = {name: (a.shape[0], b.shape[1]) for adapter in adapters for name, (a, b) in adapter.factors.items()}
    factors = {}
    for name, (n_in, n_out) in shapes.items():
        a_parts, b_parts = [], []
        for adapter, weight in zip(adapters, weights, strict=True):
            a, b = adapter.factors.get(name) or (mx.zeros((n_in, adapter.rank)), mx.zeros((adapter.rank, n_out)))
            factor = weight * adapter.scale / scale
            a_parts.append(a)
            b_parts.append(b if factor == 1.0 else b.astype(mx.float32) * factor)
        factors[name] = (mx.concatenate(a_parts, axis=1), mx.concatenate(b_parts, axis=0))
    first = adapters[0]
    if len(adapters) == 1:
        return replace(first, factors=factors)
    return Adapter(complete(factors, None), rank=rank, alpha=scale * rank)


def _numpy(factors: tuple[mx.array, mx.array]) -> tuple[np.ndarray, np.ndarray]:
    a, b = (np.array(factor.astype(mx.float32)) for factor in factors)
    return a, b


def truncate_factors(
    a: np.ndarray, b: np.ndarray, rank: int, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray, float]:
    """The nearest update of rank `rank` to scale * A B: (A', B', relative error in the Frobenius norm), float32.

    QR of both factors leaves an R x R core to decompose, so the dense (D_in, D_out) update is never built.
    Source: Eckart-Young; arrays are float64 inside.
    """
    left, upper = np.linalg.qr(a.astype(np.float64))
    right, lower = np.linalg.qr(b.T.astype(np.float64))
    u, s, vt = np.linalg.svd(scale * upper @ lower.T)
    return _cut(left @ u, s, vt @ right.T, rank)


def truncate_dense(delta: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, float]:
    """As `truncate_factors` for a dense update (D_in, D_out).

    Through the eigenvectors of the smaller Gram matrix, the only part in float64: far cheaper than a full
    decomposition, and exact to the precision of the stored float32 for every direction that matters.
    """
    if delta.shape[0] > delta.shape[1]:
        b, a, error = truncate_dense(delta.T, rank)
        return np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), error
    values, vectors = np.linalg.eigh(_gram(delta))
    order = np.argsort(values)[::-1]
    s, u = np.sqrt(np.maximum(values[order], 0.0)), vectors[:, order]
    whole = float(np.linalg.norm(s))
    # Below this the square roots of the eigenvalues are rounding noise.
    usable = int((s[:rank] > 1e-7 * s[0]).sum())
    root = np.sqrt(s[:usable])
    a, b = u[:, :usable] * root, (u[:, :usable].T.astype(delta.dtype) @ delta) / root[:, None]
    return *_padded(a, b, rank), float(np.linalg.norm(s[rank:]) / whole) if whole else 0.0


def _gram(delta: np.ndarray, columns: int = 2048) -> np.ndarray:
    """delta delta^T in float64, a block of columns at a time."""
    total = np.zeros((len(delta), len(delta)))
    for start in range(0, delta.shape[1], columns):
        block = delta[:, start : start + columns].astype(np.float64)
        total += block @ block.T
    return total


def _cut(u: np.ndarray, s: np.ndarray, vt: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, float]:
    root = np.sqrt(s[:rank])
    whole = float(np.linalg.norm(s))
    a, b = u[:, : root.size] * root, root[:, None] * vt[: root.size]
    return *_padded(a, b, rank), float(np.linalg.norm(s[rank:]) / whole) if whole else 0.0


def _padded(a: np.ndarray, b: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    missing = rank - a.shape[1]
    a, b = np.pad(a, ((0, 0), (0, max(0, missing)))), np.pad(b, ((0, max(0, missing)), (0, 0)))
    return a.astype(np.float32), b.astype(np.float32)


def _delta(adapter: Adapter, name: str, weight: float) -> np.ndarray | None:
    """The dense scaled update of one module times `weight`, float32; None when the adapter has none."""
    if name not in adapter.factors:
        return None
    a, b = _numpy(adapter.factors[name])
    return np.float32(weight * adapter.scale) * (a @ b)


def _combined(deltas: Sequence[np.ndarray | None], how: Merge, name: str) -> np.ndarray:
    present = [delta for delta in deltas if delta is not None]
    if how.method == "ties":
        return ties(present, how.density)
    # Each module has its own random stream, so that the result does not depend on the order of the work.
    digest = hashlib.sha256(f"{how.seed}:{name}".encode()).digest()
    return dare(present, how.density, np.random.default_rng(list(digest)))


def ties(deltas: Sequence[np.ndarray], density: float) -> np.ndarray:
    """TIES: trim, elect a sign for each entry, and average the values that have this sign.

    Source: TIES-Merging (arXiv 2306.01708), algorithm 1, on the LoRA update of one module: the largest `density` share
    of each delta stays; the sign with the larger total magnitude wins per entry. Weights are in the deltas already.
    """
    trimmed = [_trimmed(delta, density) for delta in deltas]
    sign = np.sign(sum(trimmed))
    total, count = np.zeros_like(trimmed[0]), np.zeros_like(trimmed[0])
    for delta in trimmed:
        agrees = (np.sign(delta) == sign) & (delta != 0)
        total += np.where(agrees, delta, 0)
        count += agrees
    return total / np.maximum(count, 1)


def _trimmed(delta: np.ndarray, density: float) -> np.ndarray:
    place = delta.size - max(1, round(density * delta.size))
    size = np.abs(delta)
    return np.where(size >= np.partition(size, place, axis=None)[place], delta, 0)


def dare(deltas: Sequence[np.ndarray], density: float, rng: np.random.Generator) -> np.ndarray:
    """Drop entries at random, rescale the rest by 1 / density, and add: the sum stays right in expectation.

    Source: DARE (arXiv 2311.03099), equation 1, on the LoRA update of one module; `density` is 1 minus its drop rate.
    """
    total = np.zeros_like(deltas[0])
    for delta in deltas:
        total += np.where(rng.random(delta.shape, np.float32) < density, delta / density, 0)
    return total
