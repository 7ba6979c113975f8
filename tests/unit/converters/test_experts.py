"""Experts as releases have them, one by one or joined, become stacks, and stacks become experts again."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from converters.convert import convert
from converters.experts import one_by_one, stacked
from converters.tensors import TensorEntry
from converters.writers.target import Target
from mlx_loopai.errors import InputError
from mlx_loopai.models.load import load_model
from tests.tiny_architectures import write_architecture

COUNT, INNER, HIDDEN = 3, 4, 6
PREFIX = "model.layers.0.mlp"


def entry(name: str, values: np.ndarray) -> TensorEntry:
    rows = values.reshape(-1, values.shape[-1])
    return TensorEntry(name, values.shape, "F32", lambda start, stop: rows[start:stop], name)


@pytest.fixture
def matrices() -> dict[str, np.ndarray]:
    """gate and up (experts, inner, hidden), down (experts, hidden, inner)."""
    generator = np.random.default_rng(0)
    gate, up = generator.normal(size=(2, COUNT, INNER, HIDDEN)).astype(np.float32)
    down = generator.normal(size=(COUNT, HIDDEN, INNER)).astype(np.float32)
    return {"gate_proj": gate, "up_proj": up, "down_proj": down}


def check(entries: dict[str, TensorEntry], matrices: dict[str, np.ndarray]) -> None:
    found = stacked(entries, "here")
    assert found.keys() == {f"{PREFIX}.switch_mlp.{part}.weight" for part in matrices}
    for part, values in matrices.items():
        stack = found[f"{PREFIX}.switch_mlp.{part}.weight"]
        assert np.array_equal(stack.load(), values)
        assert np.array_equal(stack.read_rows(2, 9), values.reshape(-1, values.shape[-1])[2:9])


def test_one_by_one(matrices: dict[str, np.ndarray]) -> None:
    entries = {
        f"{PREFIX}.experts.{number}.{part}.weight": entry("a test's", values[number])
        for part, values in matrices.items()
        for number in reversed(range(COUNT))
    }
    check(entries, matrices)


def test_gate_and_up_joined(matrices: dict[str, np.ndarray]) -> None:
    joined = np.concatenate([matrices["gate_proj"], matrices["up_proj"]], axis=1)
    named = {f"{PREFIX}.experts.gate_up_proj": joined, f"{PREFIX}.experts.down_proj": matrices["down_proj"]}
    check({name: entry(name, values) for name, values in named.items()}, matrices)


def test_and_back(matrices: dict[str, np.ndarray]) -> None:
    stacks = [entry(f"{PREFIX}.switch_mlp.{part}.weight", values) for part, values in matrices.items()]
    apart = {each.name: each for each in one_by_one(stacks)}
    assert len(apart) == 3 * COUNT
    assert np.array_equal(apart[f"{PREFIX}.experts.1.up_proj.weight"].load(), matrices["up_proj"][1])
    check(apart, matrices)


def test_a_missing_expert_is_named(matrices: dict[str, np.ndarray]) -> None:
    entries = {
        f"{PREFIX}.experts.{number}.up_proj.weight": entry("a test's", matrices["up_proj"][number]) for number in (0, 2)
    }
    with pytest.raises(InputError, match=r"here: the experts of .*up_proj.weight are not all there"):
        stacked(entries, "here")


@pytest.mark.parametrize("name", ["qwen3_moe", "qwen3_5_moe"])
def test_quantised_they_are_verified_and_open(tmp_path: Path, tiny_model_folder: Path, name: str) -> None:
    source = write_architecture(tmp_path / "source", name, tiny_model_folder)
    found = convert(source, tmp_path / "out", target=Target(quantize="8", group_size=32), check=True)
    assert found.verification is not None
    before, after = (load_model(str(folder), "fp32").model for folder in (source, tmp_path / "out"))
    block = after.layers[0].mlp
    assert block.switch_mlp.gate_proj.bits == 8
    assert not hasattr(block.gate, "bits")
    ids = mx.array([[5, 7, 11, 13]])
    assert mx.abs(before(ids) - after(ids)).max() < 0.2 * mx.abs(before(ids)).max()
