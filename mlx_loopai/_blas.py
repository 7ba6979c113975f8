"""On Linux, give MLX's CPU backend a fast BLAS.

The Linux wheel of MLX links the reference BLAS (3.4 GFLOP/s on the development machine). If MKL's single library is
loaded before `mlx.core`, with its symbols global, it answers those calls instead (57 GFLOP/s per core). Macs have
Accelerate and Metal.

Importing `mlx_loopai` does not load MKL: a hook waits for the first `import mlx.core` in the process.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Any

_LIBRARY = "libmkl_rt.so"

# Set only where the user has not: MKL reads them when it is loaded.
_DEFAULTS = {
    # Idle threads sleep at once. By default they spin for 200 ms, on a core that MLX's single-threaded element-wise
    # work or another process needs. Sleeping helped wherever it was measured (docs/decisions/project.md).
    "KMP_BLOCKTIME": "0",
    # The same bits in every run, whatever the alignment of buffers, so that a resumed run equals an uninterrupted one.
    "MKL_CBWR": "AUTO,STRICT",
}


def prefer_mkl_before_mlx() -> None:
    """Load MKL when `mlx.core` is imported, and not before."""
    if _suits_mkl():
        sys.meta_path.insert(0, _BeforeMlx())


class _BeforeMlx:
    """An import hook that finds no module; it is asked about each, and so knows when MLX is about to be imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "mlx.core":
            sys.meta_path.remove(self)
            prefer_mkl()


def _suits_mkl() -> bool:
    return sys.platform == "linux" and os.uname().machine == "x86_64" and "mlx.core" not in sys.modules


@cache
def prefer_mkl() -> str | None:
    """Load MKL for MLX, if it is installed; returns the library's path, or None where MLX keeps its own BLAS.

    It takes a few milliseconds, since MKL loads its kernels only at the first matrix product.
    """
    if not _suits_mkl():
        return None
    library = _find_mkl()
    if library is None:
        return None
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    import ctypes

    try:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return None  # a broken MKL is no reason to stop; `mlx-loopai doctor` says that it is not in use
    return library


def _find_mkl() -> str | None:
    # Not pathlib: importing it takes longer than everything else here, and `--help` waits for this module.
    folder = os.path.join(sys.prefix, "lib")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    beside_python = sorted(name for name in names if name.startswith(_LIBRARY))
    return os.path.join(folder, beside_python[-1]) if beside_python else _recorded_mkl()


def _recorded_mkl() -> str | None:
    """Where pip put MKL when that is not the environment's own `lib` (a user's folder, Debian's /usr/local)."""
    from importlib import metadata  # slow to import, and seldom needed

    try:
        files = metadata.files("mkl") or []
    except metadata.PackageNotFoundError:
        return None
    found = (os.path.realpath(str(file.locate())) for file in files if file.name.startswith(_LIBRARY))
    return next((path for path in found if os.path.isfile(path)), None)
