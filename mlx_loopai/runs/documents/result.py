"""Reads a result file that is either an evaluation or a comparison."""

from __future__ import annotations

from pathlib import Path

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.runs.documents.comparison import Comparison
from mlx_loopai.runs.documents.document import read_json
from mlx_loopai.runs.documents.evaluation import Evaluation


def read_result(path: Path) -> Evaluation | Comparison:
    """The evaluation or the comparison in the file `path`. Raises: InputError when it holds neither, or is broken."""
    found = read_json(path)
    if isinstance(found, dict) and "arms" in found:
        return Comparison.from_json(found, str(path))
    if isinstance(found, dict) and "retention" in found:
        return Evaluation.from_json(found, str(path))
    raise InputError(tr("{path}: holds neither a retention nor arms", path=path))
