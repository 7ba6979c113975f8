"""Results of tasks and likelihoods of rows, made up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_loopai.evaluation.perplexity import RowLosses
from mlx_loopai.evaluation.tasks import JudgedAnswer, TaskResult


def result(name: str, right: Sequence[bool], chance: float = 0.05) -> TaskResult:
    return TaskResult(name, chance, tuple(JudgedAnswer(prompt="", text="", right=one) for one in right))


def losses(per_token: float, seed: int = 0, noise: float = 0.1, rows: int = 80) -> RowLosses:
    """Of rows that are the same for every seed."""
    tokens = np.random.default_rng(9).integers(20, 60, rows)
    return RowLosses(tokens * (per_token + noise * np.random.default_rng(seed).standard_normal(rows)), tokens)
