"""A guard that only its own file and the configuration know: it trains, is kept, and is planned for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_loopai.config import PENALTIES, MeasuredOptions, PenaltyOptions, RunConfig, load_config
from mlx_loopai.errors import InputError
from mlx_loopai.guards import guard as guards
from mlx_loopai.guards.guard import Material, Penalty, guard_of, register
from mlx_loopai.guards.measured import MeasuredGuard, over_layers
from mlx_loopai.guards.terms import memory_terms
from mlx_loopai.memory.guard_terms import GuardTerms
from mlx_loopai.memory.machine import named_machine
from mlx_loopai.memory.plan import plan
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import apply_lora, lora_modules
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training.run import train
from tests.unit.conftest import ROOT, Heard


class Shortness(MeasuredGuard[float]):
    """Keeps the factors short, the more tokens it was measured on."""

    measured_rows: ClassVar[list[int]] = []

    def terms(self, options: PenaltyOptions) -> GuardTerms:
        return GuardTerms(adapters=7)

    def measure(self, material: Material) -> float:
        self.measured_rows.append(sum(len(batch.ids) for batch in material.rows))
        return float(sum(batch.supervised.sum() for batch in material.rows))

    def penalty(self, state: float) -> Penalty:
        ones = dict.fromkeys((f"model.layers.{block}.self_attn.q_proj" for block in range(2)), state)
        return over_layers(ones, lambda name, layer: mx.square(layer.lora_a).sum())

    def save(self, state: float, path: Path) -> None:
        path.write_text(json.dumps(state), encoding="utf-8")

    def load(self, path: Path) -> float:
        return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def configure(
    tiny_model_folder: Path, data_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunConfig]:
    """Registers the toy guard; builds a run's configuration with it."""
    monkeypatch.setenv("MLX_LOOPAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(PENALTIES, "toy", MeasuredOptions)
    monkeypatch.setattr(guards, "_GUARDS", dict(guards._GUARDS))
    monkeypatch.setattr(Shortness, "measured_rows", [])
    register("toy")(Shortness)
    values = {
        "model": str(tiny_model_folder),
        "sources": {"tale": {"path": str(data_files["tale"])}},
        "general": str(data_files["general"]),
        "lora": {"rank": 2, "targets": ["q_proj"]},
        "train": {"max_steps": 2, "rows_per_step": 2, "save_every": 1},
        "penalty": {"kind": "toy", "strength": 0.5, "sequences": 5},
    }
    return lambda *overrides: load_config(None, overrides, values)


def test_a_run_trains_with_it_keeps_its_state_and_goes_on(
    configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard
) -> None:
    config, run = configure(), RunDirectory(tmp_path / "run")
    train(config, run.path, heard)
    (first, _) = (event for event in run.read_events() if event["event"] == "step")
    layers = lora_modules(_adapted(config))
    tokens = Shortness().load(run.importance)
    expected = 0.5 * tokens * sum(mx.square(layer.lora_a).sum().item() for layer in layers.values())
    assert tokens > 0
    assert first["penalty"] == pytest.approx(expected, rel=1e-5)
    assert load_config(run.resolved) == config.model_copy(update={"train": load_config(run.resolved).train})
    assert train(config, run.path, heard, resume=True).steps == 2
    train(configure("penalty.strength=1"), tmp_path / "stronger", heard)
    assert Shortness.measured_rows == [5]  # the second run found the first one's state
    train(configure("penalty.sequences=4"), tmp_path / "other", heard)
    assert Shortness.measured_rows == [5, 4]


def _adapted(config: RunConfig) -> nn.Module:
    model = load_model(config.model, config.dtype).model
    apply_lora(model, config.lora, config.train.seed)
    return model


def test_the_plan_has_room_for_it(configure: Callable[..., RunConfig], tiny_model_folder: Path) -> None:
    config, shape = configure(), ModelShape.from_folder(tiny_model_folder)
    found = plan(shape, config, named_machine("m4-16gb"), memory_terms(config.penalty, config.replay))
    assert found.terms["penalty"] == 7 * 4 * shape.lora_parameters(2, ("q_proj",), 0)


def test_every_kind_of_the_configuration_has_a_guard_and_no_other_is_known() -> None:
    for kind in PENALTIES:
        guard_of(PenaltyOptions(kind=kind))
    assert set(guards._GUARDS) == set(PENALTIES)
    with pytest.raises(InputError, match="no such kind; known: none, .*; did you mean sketch?"):
        load_config(None, ("penalty.kind=scetch",))


def test_what_guards_hand_to_the_plan_needs_no_mlx_lm() -> None:
    """Importing it takes longer than a plan."""
    code = (
        "import sys; from mlx_loopai.config import load_config; from mlx_loopai.guards.terms import memory_terms\n"
        "config = load_config(None, ('penalty.kind=sketch', 'replay.source=self'))\n"
        "memory_terms(config.penalty, config.replay)\n"
        "sys.exit('mlx_lm' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_what_two_guards_need_adds_up() -> None:
    one, two = GuardTerms(adapters=1, vectors=2, diverges=True), GuardTerms(adapters=3, observes=True)
    assert one + two == GuardTerms(adapters=4, vectors=2, observes=True, diverges=True)
