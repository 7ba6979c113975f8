"""What a plan says of pictures, beside runs that were measured: their steps, and the encoder before them."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image

from converters.vision_encoder import add_encoder
from mlx_loopai.config import RunConfig, validate_config
from mlx_loopai.guards.terms import memory_terms
from mlx_loopai.memory.machine import this_machine
from mlx_loopai.memory.plan import MemoryPlan, plan
from mlx_loopai.models.vision import efficientnet
from mlx_loopai.models.vision.added import EFFICIENTNET, AddedSettings
from mlx_loopai.models.vision.projector import projector_of
from mlx_loopai.models.vision.settings import SquareSettings
from mlx_loopai.models.vision.sizes import encoder_numbers, picture_bytes, projector_numbers
from mlx_loopai.runs.context import RunContext
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training.known import known_of
from mlx_loopai.training.run import train_in
from mlx_loopai.training.seeing import shelve_pictures
from tests.drawn_shapes import drawings, write_rows
from tests.tiny_vision_folder import TOWERS, write_vision_folder
from tests.unit.conftest import Heard
from tests.unit.converters.test_vision_encoder import random_efficientnet


def opened(model: Path, rows: Path, out: Path, **options: Any) -> RunContext:
    values = {"model": str(model), "sources": {"rows": {"path": str(rows)}}, **options}
    return RunContext.open(validate_config(values, "recipe"), RunDirectory(out), Heard())


def planned(context: RunContext) -> MemoryPlan:
    config: RunConfig = context.config
    guard = memory_terms(config.penalty, config.replay)
    return plan(context.base.shape, config, this_machine(), guard, known_of(context, this_machine()))


def active() -> int:
    gc.collect()
    mx.clear_cache()
    mx.reset_peak_memory()
    return mx.get_active_memory()


@pytest.mark.parametrize("trains", ["all", "projector"])
def test_the_peak_of_a_run_with_a_projector_is_predicted(trains: str, tmp_path: Path) -> None:
    """Its 850,000 numbers, their gradient and moments are a third of what the run holds."""
    model = add_encoder("nano", "patches", tmp_path / "model", grid=2).out
    rows = write_rows(tmp_path / "rows", drawings()[:16], each=1, seed=0)
    train = {"max_steps": 2, "rows_per_step": 16, "save_every": 0}
    context = opened(model, rows, tmp_path / "run", train=train, vision={"trains": trains})
    expected, before = planned(context), active()
    measured = train_in(context).summary.peak_bytes - before
    # The other phases are upper estimates; the step is what is held against measurements.
    assert 0.85 <= (expected.peak_bytes - expected.terms["phases"]) / measured <= 1.25
    found = projector_of(context.loaded.model)
    assert found is not None
    numbers = sum(array.size for _, array in tree_flatten(found.parameters()))
    assert numbers == projector_numbers(3076, 256)
    [choice] = [one for one in expected.choices if one.name == "feature_file_bytes"]
    assert choice.value == 16 * 4 * 3076 * 4


@pytest.mark.parametrize("family", TOWERS)
def test_the_phase_of_the_encoder_covers_what_it_needs(family: str, tmp_path: Path, tiny_model_folder: Path) -> None:
    """An upper estimate, as those of the other phases."""
    model = write_vision_folder(tmp_path / "vl", family, tiny_model_folder)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    row = {"prompt": "무엇?", "completion": "그림", "images": ["a.png"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    context = opened(model, tmp_path / "rows.jsonl", tmp_path / "run", dtype="fp32")
    expected = planned(context).phases["pictures"]
    before = active()
    context.base.load("fp32")
    mx.eval(context.loaded.model.parameters())
    mx.reset_peak_memory()
    shelve_pictures(context)
    measured = mx.get_peak_memory() - before
    counted = expected - planned(context).terms["python"] - planned(context).terms["cache"]
    assert measured <= counted <= 4 * measured
    seen = context.base.sees
    assert seen is not None
    tower = context.loaded.vision.tower  # type: ignore[union-attr]
    assert encoder_numbers(seen) == sum(array.size for _, array in tree_flatten(tower.parameters()))  # type: ignore[arg-type]


def test_efficientnet_is_counted() -> None:
    weights = random_efficientnet()
    network = efficientnet.EfficientNetLite0({name: mx.array(array) for name, array in weights.items()})
    before = active()
    mx.eval(network(mx.zeros((efficientnet.SIDE, efficientnet.SIDE, 3))))
    measured = mx.get_peak_memory() - before
    square = SquareSettings(efficientnet.SIDE, efficientnet.ROWS)
    settings = AddedSettings(EFFICIENTNET, width=efficientnet.WIDTH, scale=1.0, patches=square, image_token=0)
    assert measured <= picture_bytes(settings, efficientnet.ROWS**2, keeps_scores=True) <= 1.5 * measured
    kept = {name: array for name, array in weights.items() if not name.startswith(efficientnet.CLASSIFIER)}
    kernels = [array.size for name, array in kept.items() if array.ndim == 4]
    biases = [array.size for name, array in kept.items() if name.endswith(".running_mean")]
    assert encoder_numbers(settings) == sum(kernels) + sum(biases)


def test_rows_of_text_have_no_such_terms(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "안녕?", "completion": "안녕하세요."}\n', encoding="utf-8")
    found = planned(opened(Path("nano"), tmp_path / "rows.jsonl", tmp_path / "run"))
    assert found.terms["pictures"] == 0
    assert "pictures" not in found.phases
