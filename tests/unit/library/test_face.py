"""`import mlx_loopai`: quick, quiet, and every name where it says it is."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import mlx_loopai

ROOT = Path(__file__).parents[3]
SOURCE = Path(mlx_loopai.__file__)


def run(program: str, folder: Path | None = None) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MKL_", "KMP_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=inherited | {"PYTHONPATH": str(ROOT)},
        cwd=folder or tempfile.gettempdir(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_loads_nothing_and_changes_nothing() -> None:
    program = """
import os, sys
before = dict(os.environ)
import mlx_loopai
assert dict(os.environ) == before, set(os.environ) ^ set(before)
mlx_loopai.InputError
print(*sys.modules)
"""
    loaded = set(run(program).split())
    assert not loaded & {"mlx", "mlx.core", "numpy", "pydantic", "mlx_lm", "transformers", "ctypes"}
    assert {name for name in loaded if name.startswith("mlx_loopai.")} == {"mlx_loopai._blas", "mlx_loopai.errors"}


def test_importing_it_is_quick() -> None:
    """In CPU time, which a busy machine does not stretch."""
    program = "import time; began = time.process_time(); import mlx_loopai; print(time.process_time() - began)"
    assert min(float(run(program)) for _ in range(3)) < 0.1


def test_cleaning_needs_no_mlx() -> None:
    program = "import sys, mlx_loopai as m; print(m.filter_text('<b>안녕</b>').text, 'mlx.core' in sys.modules)"
    assert run(program).split() == ["안녕", "False"]


@pytest.mark.parametrize("name", mlx_loopai.__all__)
def test_every_name_is_there_and_described(name: str) -> None:
    value = getattr(mlx_loopai, name)
    assert name in dir(mlx_loopai)
    if name != "__version__":
        assert value.__doc__, f"{name} has no docstring"
        assert value is getattr(importlib.import_module(f"mlx_loopai.{mlx_loopai._MODULES[name]}"), name)


def test_what_type_checkers_read_is_what_is_loaded() -> None:
    stub = ast.parse(SOURCE.with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    told = {alias.asname: node.module for node in imports for alias in node.names if alias.asname == alias.name}
    assert told == {name: f"mlx_loopai.{module}" for name, module in mlx_loopai._MODULES.items()}
    assert {"__version__", *told} == set(mlx_loopai.__all__)
    assert (SOURCE.parent / "py.typed").exists()


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fine_tune'"):
        mlx_loopai.fine_tune  # noqa: B018


def test_one_line_from_any_folder(tmp_path: Path) -> None:
    said = run("import mlx_loopai as m; print(m.generate('태국의 수도는 어디인가요?').text)", tmp_path)
    assert "방콕" in said
    assert list(tmp_path.iterdir()) == []
