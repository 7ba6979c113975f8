from __future__ import annotations

from pathlib import Path

import pytest

from mlx_loopai.benchmark.roofline import decoding_bytes, share_of_peak, training_flops
from mlx_loopai.errors import LoopaiError
from mlx_loopai.models.shape import ModelShape


def test_operations_and_bytes_follow_the_shape(tiny_model_folder: Path) -> None:
    shape = ModelShape.from_folder(tiny_model_folder)
    # Two blocks of q, o (32 x 32), k, v (16 x 32), gate, up, down (64 x 32); a head of 300 x 32.
    block, head = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32), 300 * 32
    assert training_flops(shape, 10, 3) == 4 * (10 * block + 3 * head)
    assert decoding_bytes(shape) == 4 * (block + head)


def test_a_share_above_one_cannot_be() -> None:
    assert share_of_peak("a side", 5.0, 10.0) == 0.5
    with pytest.raises(LoopaiError, match=r"a side: 1\.50 of the hardware's peak"):
        share_of_peak("a side", 15.0, 10.0)
