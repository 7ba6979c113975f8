"""Checkpoints from which a run continues bit for bit: adapter, optimizer, position and random state."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
from mlx.utils import tree_flatten, tree_unflatten

from mlx_loopai.errors import InputError
from mlx_loopai.files import checksum, sync_file
from mlx_loopai.guards.budget import GuardWeight
from mlx_loopai.language import tr
from mlx_loopai.models.adapters import adapter_arrays, save_arrays
from mlx_loopai.training.judgement import PromptReading

STATE_FILE = "state.json"
ARRAYS_FILE = "arrays.safetensors"
CHECKSUMS_FILE = "checksums.json"
_CHECKED = (ARRAYS_FILE, STATE_FILE)


@dataclass(frozen=True)
class Position:
    """Where a run stands: `step` steps done in all, `phase_step` of them in phase number `phase`.

    loss_first, validation_first: nats per token before training. best_validation, best_step, validations_since_best: of
    the held-out rows. kept_step: step of the last monitor reading above the floor. fell_below: whether a reading below
    the floor ended the run. guards: what the guards weigh now. asked_first: how held-out prompts were answered before
    training. inside_step: step of the last monitor reading inside the forgetting budget, where leaving it ends the run;
    outside: how many readings in a row were outside since; left_budget: whether that ended the run.
    """

    step: int = 0
    phase: int = 0
    phase_step: int = 0
    skipped_steps: int = 0
    supervised_tokens: int = 0
    loss_first: float | None = None
    validation_first: float | None = None
    best_validation: float | None = None
    best_step: int | None = None
    validations_since_best: int = 0
    kept_step: int | None = None
    fell_below: bool = False
    guards: GuardWeight = field(default_factory=GuardWeight)
    asked_first: PromptReading | None = None
    inside_step: int | None = None
    outside: int = 0
    left_budget: bool = False


def save_checkpoint(
    folder: Path, scratch: Path, model: nn.Module, optimizer: optimizers.Optimizer, position: Position, keep: int
) -> Path:
    """Write checkpoint `folder/step-NNNNNN`, delete old ones, and return its path.

    Kept are the newest `keep`, the one with the best validation, the last one above the monitor's floor, and the last
    one inside the forgetting budget. The files are written in `scratch`, outside `folder`, and renamed, so that every
    checkpoint in `folder` is complete.
    """
    target = checkpoint_path(folder, position.step)
    named = position.best_step, position.kept_step, position.inside_step
    spared = {checkpoint_path(folder, step) for step in named if step is not None}
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        save_arrays(scratch / ARRAYS_FILE, _arrays(model, optimizer))
        (scratch / STATE_FILE).write_text(json.dumps(asdict(position)), encoding="utf-8")
        sums = {name: checksum(scratch / name) for name in _CHECKED}
        (scratch / CHECKSUMS_FILE).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")
        for file in scratch.iterdir():
            sync_file(file)
        _discard(target, scratch)
        os.rename(scratch, target)
        sync_file(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for old in complete_checkpoints(folder)[:-keep]:
        if old not in spared:
            _discard(old, scratch)
    return target


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints that hold all their files, oldest first."""
    if not folder.is_dir():
        return []
    whole = [path for path in folder.glob("step-*") if (path / STATE_FILE).is_file() and (path / ARRAYS_FILE).is_file()]
    # By number: from a million steps on the names differ in length.
    return sorted(whole, key=lambda path: (len(path.name), path.name))


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, if there is one."""
    found = complete_checkpoints(folder)
    return found[-1] if found else None


def damaged_file(path: Path) -> str | None:
    """The name of a file of the checkpoint that is not what was written; None when all are."""
    try:
        sums = json.loads((path / CHECKSUMS_FILE).read_text(encoding="utf-8"))
        wanted = {name: sums[name] for name in _CHECKED}
    except (OSError, ValueError, KeyError, TypeError):
        return CHECKSUMS_FILE
    for name, sum_ in wanted.items():
        try:
            if checksum(path / name) != sum_:
                return name
        except OSError:
            return name
    return None


def require_intact(path: Path) -> None:
    """Raises: InputError naming the damaged file, and the newest checkpoint before it that is intact."""
    name = damaged_file(path)
    if name is None:
        return
    earlier = [one for one in complete_checkpoints(path.parent) if one != path and damaged_file(one) is None]
    if earlier:
        raise InputError(
            tr(
                "{file}: changed or damaged since it was written (checksum); {intact} is intact: delete {path} and "
                "`resume` from there",
                file=path / name,
                intact=earlier[-1].name,
                path=path,
            )
        )
    raise InputError(
        tr(
            "{file}: changed or damaged since it was written (checksum), and no other checkpoint is intact; start the "
            "run again with another `out`",
            file=path / name,
        )
    )


def restore_checkpoint(path: Path, model: nn.Module, optimizer: optimizers.Optimizer) -> Position:
    """Put a checkpoint's state into `model`, `optimizer` and MLX's random state; returns its position.

    Raises: InputError when a file is not what was written, with an earlier checkpoint that is intact, or when the
    arrays do not fit.
    """
    require_intact(path)
    try:
        arrays = mx.load(str(path / ARRAYS_FILE))
        state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
        known = {one.name: state[one.name] for one in fields(Position) if one.name in state}
        # A checkpoint of an older version may hold no error yet.
        guards = {name: value for name, value in state.get("guards", {}).items() if value is not None}
        asked = state.get("asked_first")
        known |= {"guards": GuardWeight(**guards), "asked_first": asked and PromptReading(**asked)}
        position = Position(**known)
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise InputError(
            tr(
                "{path}: damaged checkpoint ({reason}); delete it and `resume`",
                path=path,
                reason=" ".join(str(error).split()),
            )
        ) from None
    expected = _arrays(model, optimizer)
    if {n: a.shape for n, a in arrays.items()} != {n: a.shape for n, a in expected.items()}:
        raise InputError(tr("{path}: belongs to another model or adapter; delete it or give another `out`", path=path))
    parts: dict[str, list[tuple[str, Any]]] = {"adapter": [], "optimizer": []}
    for name, array in arrays.items():
        part, _, rest = name.partition(".")
        if part == "random":
            _restore_random(array)
        else:
            parts[part].append((rest, array))
    model.update(tree_unflatten(parts["adapter"]))
    optimizer.state = tree_unflatten(parts["optimizer"])
    mx.eval(model.trainable_parameters(), optimizer.state, mx.random.state)
    return position


def _discard(path: Path, scratch: Path) -> None:
    """Take a checkpoint out of its folder by one rename, then delete it: a kill never leaves half of it there."""
    if path.exists():
        doomed = scratch.with_name(f"{scratch.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _restore_random(key: mx.array) -> None:
    # MLX's state takes no assignment, but a seed becomes the key (its high half, its low half), bit for bit.
    high, low = key.tolist()
    mx.random.seed(high << 32 | low)


def _arrays(model: nn.Module, optimizer: optimizers.Optimizer) -> dict[str, mx.array]:
    arrays = {f"adapter.{name}": array for name, array in adapter_arrays(model).items()}
    arrays |= {f"optimizer.{name}": array for name, array in tree_flatten(optimizer.state)}
    return arrays | {f"random.{index}": array for index, array in enumerate(mx.random.state)}
