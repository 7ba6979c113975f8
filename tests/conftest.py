"""What every test can rely on: no network, and Metal tests only where there is a Metal GPU."""

from __future__ import annotations

import os

# Before anything imports huggingface_hub: a test that forgets a local path fails at once, not after a time-out.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

import mlx_loopai  # noqa: F401  (first of all: it loads MKL before any test module imports mlx)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import mlx.core as mx

    if mx.metal.is_available():
        return
    skip = pytest.mark.skip(reason="needs an Apple GPU")
    for item in items:
        if item.get_closest_marker("metal"):
            item.add_marker(skip)
