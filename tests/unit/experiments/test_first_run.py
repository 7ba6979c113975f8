"""What `start` proposes and foretells, without a model."""

from __future__ import annotations

import pytest

from mlx_loopai.config import RunConfig, load_config
from mlx_loopai.config.shipped import shipped_values
from mlx_loopai.experiments.first_run import proposed_base, speed_by_steps
from mlx_loopai.experiments.run_time import Speed
from mlx_loopai.guards.terms import memory_terms
from mlx_loopai.memory.machine import Machine, machine_names, named_machine, this_machine
from mlx_loopai.memory.plan import plan
from mlx_loopai.models.known_shapes import known_config
from mlx_loopai.models.load import NANO_FOLDER
from mlx_loopai.models.released import RELEASED
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.units import GIB


def guarded(*overrides: str) -> RunConfig:
    rows = {"sources": {"rows": {"path": "rows.jsonl"}}}
    return load_config(None, overrides, shipped_values("guarded") | rows)


def computer(gib: float) -> Machine:
    size = int(gib * GIB)
    return Machine(name="box", ram_bytes=size, working_set_bytes=size, max_buffer_bytes=size, backend="cpu", cores=4)


def test_the_released_models_are_known_and_grow() -> None:
    sizes = [model.download_bytes for model in RELEASED]
    assert sizes == sorted(sizes)
    assert 0.9e9 < sizes[0] < 1.1e9  # 0.49 billion parameters in half precision


@pytest.mark.parametrize("name", machine_names())
def test_the_proposal_is_the_largest_that_fits_as_it_was_released(name: str) -> None:
    machine, config = named_machine(name), guarded()
    found = proposed_base(config, machine)
    fitting = []
    for model in RELEASED:
        shape = ModelShape.from_config(known_config(model.shape_name) or {})
        planned = plan(shape, config, machine, memory_terms(config.penalty, config.replay))
        if planned.fits and planned.base_precision == "bf16":
            fitting.append(model)
    assert found == (fitting[-1] if fitting else None)


def test_more_memory_never_proposes_less() -> None:
    proposed = [proposed_base(guarded(), named_machine(name)) for name in ("m4-16gb", "m4-32gb", "m4-max-128gb")]
    places = [-1 if model is None else RELEASED.index(model) for model in proposed]
    assert places == sorted(places)
    assert places[0] >= 0


def test_without_a_gpu_it_is_the_smallest_and_on_a_tiny_machine_none() -> None:
    assert proposed_base(guarded(), computer(256)) == RELEASED[0]
    assert proposed_base(guarded(), computer(1)) is None


def test_two_steps_are_measured() -> None:
    config = guarded("train.max_tokens=32", "train.rows_per_step=2")
    planned = plan(
        ModelShape.from_folder(NANO_FOLDER), config, this_machine(), memory_terms(config.penalty, config.replay)
    )
    before = Speed(flops_s=1.0, bytes_s=2.0, step_s=1.0, token_s=0.5, spread=1.0, source="a guess")
    found = speed_by_steps(str(NANO_FOLDER), planned, before)
    assert found.flops_s > 1e6
    assert (found.bytes_s, found.token_s) == (2.0, 0.5)
    assert found.source == "two steps measured here"
