from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mlx_loopai.benchmark import roofline
from mlx_loopai.benchmark.roofline import chip_peak, decoding_bytes, share_of_peak, training_flops
from mlx_loopai.errors import LoopaiError
from mlx_loopai.memory.machine import _CHIPS
from mlx_loopai.models.shape import ModelShape


def test_known_chips_have_a_peak_and_others_none() -> None:
    peak = chip_peak("Apple M4 Pro")
    assert peak is not None
    assert (peak.bytes_s, peak.flops_s) == (273e9, 9.2e12)
    assert chip_peak("AMD EPYC") is None


def test_the_planners_bandwidths_are_the_same() -> None:
    table = yaml.safe_load(Path(roofline.__file__).with_name("chips.yaml").read_text(encoding="utf-8"))
    assert {name.split()[1] for name in table} == {"M1", "M2", "M3", "M4", "M5"}
    for name, chip in _CHIPS.items():
        words = ["Apple", name.split("-")[0].upper(), *(part.title() for part in name.split("-")[1:])]
        assert table[" ".join(words)]["gigabytes_s"] == pytest.approx(chip.gigabytes_s, abs=1)


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
