from __future__ import annotations

import contextlib
import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_loopai.config import LoraOptions, TrainPath
from mlx_loopai.errors import InputError
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.training import checkpoint as module
from mlx_loopai.training.checkpoint import (
    ARRAYS_FILE,
    CHECKSUMS_FILE,
    STATE_FILE,
    Position,
    complete_checkpoints,
    damaged_file,
    latest_checkpoint,
    restore_checkpoint,
    save_checkpoint,
)
from mlx_loopai.training.step import StepSettings, TrainStep
from tests.unit.conftest import batch, row

ROWS = [row(7), row(11)]


class Trainer:
    """A model in training whose whole state can be compared."""

    def __init__(self, model: nn.Module, path: TrainPath = "auto") -> None:
        self.model = model
        self.model.train()
        self.optimizer = optimizers.AdamW(1e-2)
        self.run = TrainStep(model, self.optimizer, StepSettings(clip=1.0, chunk_rows=8, path=path))

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.run([batch(ROWS)], 1e-2)

    def state(self) -> dict[str, np.ndarray]:
        found = [*tree_flatten(self.model.trainable_parameters()), *tree_flatten(self.optimizer.state)]
        return {name: np.array(array) for name, array in found} | {"random": np.array(mx.random.state[0])}


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture
def trainer(adapted: Callable[..., nn.Module]) -> Trainer:
    return begun(adapted, "auto")


def begun(adapted: Callable[..., nn.Module], path: TrainPath) -> Trainer:
    found = Trainer(adapted(dropout=0.3), path)
    mx.random.seed(11)
    return found


def save(trainer: Trainer, folder: Path, step: int, keep: int = 2) -> Path:
    position = Position(step=step, phase=1, phase_step=2, loss_first=0.1 + 0.2)
    return save_checkpoint(folder / "checkpoints", folder / ".tmp", trainer.model, trainer.optimizer, position, keep)


def test_training_goes_on_bit_for_bit(adapted: Callable[..., nn.Module], tmp_path: Path, path: TrainPath) -> None:
    trainer = begun(adapted, path)
    trainer.steps(3)
    saved = save(trainer, tmp_path, 3)
    trainer.steps(3)
    expected = trainer.state()
    other = Trainer(adapted(dropout=0.3), path)
    mx.random.seed(99)
    position = restore_checkpoint(saved, other.model, other.optimizer)
    assert position == Position(step=3, phase=1, phase_step=2, loss_first=0.1 + 0.2)
    other.steps(3)
    assert equal(other.state(), expected)


def test_adapters_of_the_last_blocks_alone_are_restored(tiny_model_folder: Path, tmp_path: Path) -> None:
    def fresh() -> Trainer:
        model = load_model(str(tiny_model_folder), "fp32").model
        apply_lora(model, LoraOptions(rank=2, layers=1, targets=("v_proj",)), seed=0)
        return Trainer(model)

    trainer = fresh()
    trainer.steps(2)
    path = save(trainer, tmp_path, 2)
    trainer.steps(2)
    other = fresh()
    restore_checkpoint(path, other.model, other.optimizer)
    other.steps(2)
    assert {name for name in other.state() if "lora" in name} == {name for name in trainer.state() if "lora" in name}
    for name, array in trainer.state().items():
        assert np.array_equal(other.state()[name], array), name


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**40 + 7, 2**64 - 1])
def test_the_random_state_is_restored(trainer: Trainer, tmp_path: Path, seed: int) -> None:
    mx.random.seed(seed)
    mx.random.uniform()
    path = save(trainer, tmp_path, 1)
    expected = np.array(mx.random.uniform(shape=(5,)))
    restore_checkpoint(path, trainer.model, trainer.optimizer)
    assert np.array_equal(np.array(mx.random.uniform(shape=(5,))), expected)


@pytest.mark.parametrize("keep", [1, 2])
def test_the_newest_are_kept(trainer: Trainer, tmp_path: Path, keep: int) -> None:
    for step in (5, 10, 999_999, 1_000_000):
        save(trainer, tmp_path, step, keep)
    names = [path.name for path in complete_checkpoints(tmp_path / "checkpoints")]
    assert names == ["step-999999", "step-1000000"][-keep:]
    assert latest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step-1000000"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_the_same_step_can_be_saved_again(trainer: Trainer, tmp_path: Path) -> None:
    save(trainer, tmp_path, 5)
    trainer.steps(1)
    path = save(trainer, tmp_path, 5)
    expected = trainer.state()
    trainer.steps(1)
    restore_checkpoint(path, trainer.model, trainer.optimizer)
    assert equal(trainer.state(), expected)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", range(8))
def test_whenever_it_is_killed_every_checkpoint_is_whole(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Dies at the nth file operation of a save; nothing of Python's cleaning up runs, as after kill -9."""
    save(trainer, tmp_path, 1, keep=1)
    calls = 0

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > moment:
                raise Killed
            return function(*arguments, **options)

        return run

    for owner, name in (
        (module.os, "rename"),
        (module.shutil, "rmtree"),
        (mx, "save_safetensors"),
        (module, "sync_file"),
    ):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))
    with contextlib.suppress(Killed):
        save(trainer, tmp_path, 2, keep=1)
    monkeypatch.undo()
    found = list((tmp_path / "checkpoints").iterdir())
    assert found
    assert sorted(found) == complete_checkpoints(tmp_path / "checkpoints")
    for path in found:
        restore_checkpoint(path, trainer.model, trainer.optimizer)
    save(trainer, tmp_path, 3, keep=1)
    assert [path.name for path in complete_checkpoints(tmp_path / "checkpoints")] == ["step-000003"]


def test_a_full_disk_keeps_the_older_checkpoint(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(trainer, tmp_path, 1)

    def full(path: str, *_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", path)

    monkeypatch.setattr(mx, "save_safetensors", full)
    with pytest.raises(OSError, match="No space"):
        save(trainer, tmp_path, 2)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    restore_checkpoint(tmp_path / "checkpoints" / "step-000001", trainer.model, trainer.optimizer)


@pytest.mark.parametrize("name", [STATE_FILE, ARRAYS_FILE, CHECKSUMS_FILE])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe{", b"[1]", b'{"steps": 3}', None])
def test_a_damaged_file_is_named(trainer: Trainer, tmp_path: Path, name: str, content: bytes | None) -> None:
    path = save(trainer, tmp_path, 1)
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(InputError, match=rf"step-000001/{name}: changed or damaged .* no other checkpoint is intact"):
        restore_checkpoint(path, trainer.model, trainer.optimizer)


@given(st.sampled_from([STATE_FILE, ARRAYS_FILE, CHECKSUMS_FILE]), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_flipped_bit_is_resumed_and_the_intact_checkpoint_is_offered(
    trainer: Trainer, tmp_path: Path, name: str, where: float, bit: int
) -> None:
    folder = tmp_path / "checkpoints"
    if not folder.exists():
        save(trainer, tmp_path, 1)
        save(trainer, tmp_path, 2)
    whole = (folder / "step-000002" / name).read_bytes()
    flipped = bytearray(whole)
    flipped[int(where * len(whole))] ^= 1 << bit
    (folder / "step-000002" / name).write_bytes(flipped)
    before = trainer.state()
    try:
        if damaged_file(folder / "step-000002") is None:
            return  # white space of the list of checksums: what it says is the same
        with pytest.raises(InputError, match="step-000001 is intact"):
            restore_checkpoint(folder / "step-000002", trainer.model, trainer.optimizer)
        assert equal(trainer.state(), before)
        assert len(complete_checkpoints(folder)) == 2
    finally:
        (folder / "step-000002" / name).write_bytes(whole)


def test_an_edited_position_is_not_resumed(trainer: Trainer, tmp_path: Path) -> None:
    path = save(trainer, tmp_path, 1)
    state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    (path / STATE_FILE).write_text(json.dumps(state | {"phase": 9}), encoding="utf-8")
    with pytest.raises(InputError, match=f"{STATE_FILE}: changed or damaged"):
        restore_checkpoint(path, trainer.model, trainer.optimizer)


def test_a_checkpoint_of_another_adapter_is_refused(trainer: Trainer, tiny_model_folder: Path, tmp_path: Path) -> None:
    path = save(trainer, tmp_path, 1)
    model = load_model(str(tiny_model_folder), "fp32").model
    apply_lora(model, LoraOptions(rank=5), seed=0)
    other = Trainer(model)
    before = other.state()
    with pytest.raises(InputError, match="another model or adapter"):
        restore_checkpoint(path, other.model, other.optimizer)
    assert equal(other.state(), before)


def test_an_incomplete_checkpoint_is_passed_over(trainer: Trainer, tmp_path: Path) -> None:
    save(trainer, tmp_path, 1)
    shutil.copytree(tmp_path / "checkpoints" / "step-000001", tmp_path / "checkpoints" / "step-000002")
    (tmp_path / "checkpoints" / "step-000002" / STATE_FILE).unlink()
    assert latest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step-000001"
    assert latest_checkpoint(tmp_path / "nowhere") is None
