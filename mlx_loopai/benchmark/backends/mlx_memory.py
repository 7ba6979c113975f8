"""Measures the memory of a program on MLX by the allocator's own peak."""

from __future__ import annotations

from importlib.metadata import version

import mlx.core as mx


class MlxMemory:
    """Peak of the bytes that MLX's allocator had in use, above those in use at the reset."""

    memory = "peak of MLX's allocator above the weights"

    def __init__(self, versions: dict[str, str]) -> None:
        self.versions = {**versions, "mlx": version("mlx")}
        self._held = 0

    def weights_bytes(self) -> int:
        return mx.get_active_memory()

    def reset_peak(self) -> None:
        mx.clear_cache()
        self._held = mx.get_active_memory()
        mx.reset_peak_memory()

    def peak_bytes(self) -> int:
        return max(0, mx.get_peak_memory() - self._held)
