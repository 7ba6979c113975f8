"""Rescaling an adapter after training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_loopai.config import LoraOptions, load_config
from mlx_loopai.data.rows import RowReader
from mlx_loopai.data.samples.skills import SKILLS, items
from mlx_loopai.data.sources import GENERAL_CATEGORY, read_source
from mlx_loopai.experiments.arms import RECOMMENDED
from mlx_loopai.experiments.rescaling import Point, Rescaling, best, rescaled, sweep
from mlx_loopai.experiments.tune import Tuned, open_prompts, write_rescaled
from mlx_loopai.guards.rehearsal import WATCHED_ROWS, general_prompts
from mlx_loopai.models.adapters import load_adapter, save_adapter
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import adapter_disabled, lora_modules

IDS = mx.array([[5, 17, 230, 9, 44]])


def test_factors_lie_on_a_line_from_the_first_block_to_the_last() -> None:
    assert [Rescaling(0.25, 1.0).factor(block, 4) for block in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert Rescaling(0.5, 0.5).factor(0, 1) == 0.5


def test_every_block_gets_its_own_factor_and_all_is_as_before_afterwards(adapted: Callable[..., nn.Module]) -> None:
    model = adapted()
    before = {name: np.array(layer.lora_b) for name, layer in lora_modules(model).items()}
    with rescaled(model, Rescaling(0.2, 0.6)):
        for name, layer in lora_modules(model).items():
            factor = 0.2 if ".layers.0." in name else 0.6
            assert np.allclose(np.array(layer.lora_b), factor * before[name])
    assert all(np.array_equal(np.array(layer.lora_b), before[name]) for name, layer in lora_modules(model).items())


def test_nothing_of_the_adapter_is_the_base(adapted: Callable[..., nn.Module]) -> None:
    model = adapted()
    with rescaled(model, Rescaling(0.0, 0.0)):
        scaled = np.array(model(IDS))
    with adapter_disabled(model):
        assert np.array_equal(scaled, np.array(model(IDS)))


def test_the_sweep_scores_every_rescaling(adapted: Callable[..., nn.Module]) -> None:
    model = adapted()
    (layer, *_) = lora_modules(model).values()
    size = mx.abs(layer.lora_b).sum().item()

    def gain() -> float:
        return mx.abs(layer.lora_b).sum().item() / size

    done: list[int] = []
    points = sweep(model, gain, lambda: 1 - gain(), [Rescaling(s, s) for s in (0.0, 0.5, 1.0)], done.append)
    assert [point.gain for point in points] == pytest.approx([0.0, 0.5, 1.0])
    assert [point.retention for point in points] == pytest.approx([1.0, 0.5, 0.0])
    assert done == [1, 2, 3]


def test_the_best_point_is_the_largest_gain_above_the_floor() -> None:
    points = [
        Point(Rescaling(s, s), gain, retention)
        for s, gain, retention in [(0.2, 0.3, 0.99), (0.5, 0.8, 0.96), (0.6, 0.8, 0.97), (1.0, 1.0, 0.7)]
    ]
    assert best(points, 0.95).rescaling.first == 0.6
    assert best(points, 0.98).rescaling.first == 0.2
    assert best(points, 0.999).rescaling.first == 0.2


@pytest.mark.parametrize("chosen", [Rescaling(0.5, 0.5), Rescaling(0.25, 1.0)])
def test_what_is_written_is_what_was_tried(
    adapted: Callable[..., nn.Module], tiny_model_folder: Path, tmp_path: Path, chosen: Rescaling
) -> None:
    model, point = adapted(), Point(chosen, 1.0, 1.0)
    save_adapter(tmp_path / "whole", model, LoraOptions(rank=3, alpha=6.0), "")
    write_rescaled(tmp_path / "whole", tmp_path / "part", Tuned(point, (point,)), len(model.layers))
    read = load_model(str(tiny_model_folder), "fp32").model
    load_adapter(read, tmp_path / "part")
    with rescaled(model, chosen):
        assert np.allclose(np.array(read(IDS)), np.array(model(IDS)), atol=1e-6)
    assert not np.allclose(np.array(read(IDS)), np.array(model(IDS)), atol=1e-6)


def test_prompts_to_choose_by_were_not_rehearsed() -> None:
    recipe = load_config(RECOMMENDED[True])
    records = read_source(recipe.general, GENERAL_CATEGORY)
    probed = {item.prompt for skill in SKILLS for item in items(skill, probe=True)}
    for source, most in (("self", 600), ("self", 100), ("records", 600), ("none", 600)):
        replay = recipe.replay.model_copy(update={"source": source, "max_prompts": most})
        config = recipe.model_copy(update={"replay": replay})
        chosen = set(open_prompts(config, RowReader(None)))
        assert len(chosen) == WATCHED_ROWS
        assert not chosen & probed
        if source == "self":
            assert not chosen & set(general_prompts(records, replay, config.train.seed))
        if source == "records":
            assert not chosen & {message.content for record in records for message in record.messages}
