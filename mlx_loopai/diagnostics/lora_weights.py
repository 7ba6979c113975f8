"""Statistics of an adapter's update, matrix by matrix: size, rank, outliers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float32]
_OUTLIER = 4.0  # robust deviations from the median of all modules' norms


@dataclass(frozen=True)
class Update:
    """Statistics of DW = s (A B)^T: mean, standard deviation and largest absolute value of its entries; Frobenius norm;
    singular values (R,).

    effective_rank: exp of the entropy of the singular values' shares (Roy and Vetterli 2007): 1 for a single direction,
    R for R equal ones. outlier: whether the norm is far from those of the other modules.
    """

    mean: float
    deviation: float
    largest: float
    norm: float
    singular_values: _Floats
    effective_rank: float
    outlier: bool


def updates(factors: Mapping[str, tuple[_Floats, _Floats, float]]) -> dict[str, Update]:
    """Module -> figures of its update, from `lora_a` (D_in, R), `lora_b` (R, D_out) and the scale s."""
    found = {name: _update(*parts) for name, parts in factors.items()}
    norms = np.array([update.norm for update in found.values()])
    median = float(np.median(norms)) if len(norms) else 0.0
    # 1.4826 makes the median absolute deviation a standard deviation for normal data.
    spread = 1.4826 * float(np.median(np.abs(norms - median))) if len(norms) else 0.0
    return {
        name: replace(update, outlier=bool(spread and abs(update.norm - median) > _OUTLIER * spread))
        for name, update in found.items()
    }


def update_norms(factors: Mapping[str, tuple[_Floats, _Floats, float]]) -> dict[str, float]:
    """Module -> Frobenius norm of its update, without making it: |A B|^2 is the sum of (A^T A) * (B B^T)."""
    found = {}
    for name, (a, b, scale) in factors.items():
        left, right = (matrix.astype(np.float64) for matrix in (a, b))
        found[name] = abs(scale) * float(np.sqrt(max(0.0, ((left.T @ left) * (right @ right.T)).sum())))
    return found


def _update(a: _Floats, b: _Floats, scale: float) -> Update:
    dense = scale * (a @ b)
    # The singular values of A B are those of the R x R product of their triangular factors.
    values = scale * np.linalg.svd(np.linalg.qr(a)[1] @ np.linalg.qr(b.T)[1].T, compute_uv=False)
    return Update(
        mean=float(dense.mean()),
        deviation=float(dense.std()),
        largest=float(np.abs(dense).max()),
        norm=float(np.linalg.norm(values)),
        singular_values=values.astype(np.float32),
        effective_rank=_effective_rank(values),
        outlier=False,
    )


def _effective_rank(values: npt.NDArray[np.floating]) -> float:
    total = values.sum()
    if total <= 0:
        return 0.0
    shares = values[values > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))
