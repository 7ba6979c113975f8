"""The programs of bench/, which is no package, as modules that a test can call."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[1] / "bench"


def bench_program(name: str) -> ModuleType:
    """bench/NAME.py; as when it is run, it finds its neighbours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        return importlib.import_module(name)
