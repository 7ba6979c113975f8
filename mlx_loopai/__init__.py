"""mlx-loopai: fine-tune a language model on a Mac without breaking it, and prove it."""

from __future__ import annotations

from mlx_loopai._blas import prefer_mkl

__version__ = "0.1.0"

# Symbols bind when mlx is loaded, so this stands before any `import mlx.core` of the package.
prefer_mkl()
