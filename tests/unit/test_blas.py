"""On Linux a matrix product of MLX goes through MKL, and is right."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from mlx_loopai import _blas

pytestmark = pytest.mark.skipif(_blas.prefer_mkl() is None, reason="MKL is not installed here (extra `linux`)")

_PRODUCT = """
import mlx_loopai
import mlx.core as mx
import numpy as np
a, b = (np.random.default_rng(seed).standard_normal((1024, 1024)).astype(np.float32) for seed in (0, 1))
got = np.array(mx.matmul(mx.array(a), mx.array(b), stream=mx.cpu))
print("error", np.abs(got - a.astype(np.float64) @ b).max())
"""


def _run(program: str, **environment: str) -> str:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MKL_", "KMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", program], env=inherited | environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_product_goes_through_mkl_and_is_right() -> None:
    output = _run(_PRODUCT, MKL_VERBOSE="1")
    assert re.search(r"MKL_VERBOSE SGEMM\(N,N,1024,1024,1024,", output), output
    assert float(re.search(r"error (\S+)", output)[1]) < 1e-3


def test_runs_are_reproducible_and_threads_do_not_spin() -> None:
    settings = _run("import mlx_loopai, mlx.core, os; print(os.environ['MKL_CBWR'], os.environ['KMP_BLOCKTIME'])")
    assert settings.split() == ["AUTO,STRICT", "0"]
    assert "CNR:AUTO,STRICT" in _run(_PRODUCT, MKL_VERBOSE="1")


def test_nothing_is_loaded_before_mlx_is() -> None:
    program = """
import mlx_loopai, os
loaded = lambda: "libmkl_rt" in open("/proc/self/maps").read()
print(loaded(), "MKL_CBWR" in os.environ)
import mlx
print(loaded())
import mlx.core
print(loaded(), "MKL_CBWR" in os.environ)
"""
    assert _run(program).split("\n")[:3] == ["False False", "False", "True True"]


def test_the_users_own_settings_stand() -> None:
    assert "CNR:COMPATIBLE" in _run(_PRODUCT, MKL_VERBOSE="1", MKL_CBWR="COMPATIBLE")


def test_mkl_is_found_through_pips_record_too() -> None:
    assert os.path.samefile(_blas._recorded_mkl(), _blas._find_mkl())


def test_too_late_after_mlx() -> None:
    late = "import mlx.core, mlx_loopai; from mlx_loopai._blas import prefer_mkl; print(prefer_mkl())"
    assert _run(late).strip() == "None"
