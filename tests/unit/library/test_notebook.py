"""The example notebook without running it: it is JSON, its cells compile, and it uses the public names alone."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import mlx_loopai

NOTEBOOK = Path(__file__).parents[3] / "examples" / "first_run.ipynb"


def cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_its_cells_use_the_public_names_alone() -> None:
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in code))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {alias.name for node in imported if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in imported if isinstance(node, ast.ImportFrom)}
    assert modules - sys.stdlib_module_names == {"mlx_loopai"}
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "m"
    }
    assert {"load", "train", "evaluate"} <= used <= set(mlx_loopai.__all__)


def test_it_is_stored_without_results() -> None:
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
