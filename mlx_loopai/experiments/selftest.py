"""The self-test of `doctor`: whether this machine computes correctly. Ask for its result first in a bug report.

Every check computes one thing in two ways, with the embedded model on MLX's default device, and reports how far the
results are apart.
"""

from __future__ import annotations

import json
import math
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten

from mlx_loopai.config import LoraOptions, TrainPath, load_config
from mlx_loopai.data.batches import collate
from mlx_loopai.data.records import Record
from mlx_loopai.data.sources import DOMAIN, SAMPLES_PREFIX, read_source
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.errors import Interrupted
from mlx_loopai.generation.constraint import Scripts, build_constraint
from mlx_loopai.language import later
from mlx_loopai.models.adapters import WEIGHTS_FILE
from mlx_loopai.models.gradient import LossForm, Targets, actual_path, compiled_gradient, eager_gradient
from mlx_loopai.models.load import NANO, load_model
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.progress import Advance, ignore
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.listener import Silent
from mlx_loopai.training.run import train

_Floats: TypeAlias = npt.NDArray[np.float32]

# Rounding of fp32 in sums of another order; a wrong kernel is off by far more.
_FP32_BOUND = 1e-4
# bf16 keeps 8 bits, so that one rounding is off by 2^-9 at most; a loss averages many of them.
_BF16_BOUND = 2e-2
_ROWS = 4
_STOPPED_AFTER = 2
_STEPS = 4
_SEQUENCES, _SEQUENCE_TOKENS = 64, 12


@dataclass(frozen=True)
class Check:
    """The relative difference of two results, and the largest that passes; bound 0: the bits must be equal."""

    name: str
    difference: float
    bound: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.bound


def selftest(on_progress: Advance = ignore) -> list[Check]:
    """All checks; half a minute on a slow machine. `on_progress` is called with how many of `N_GROUPS` are done.

    Call it from the main thread: one check stops a run as Ctrl-C does.
    """
    found: list[Check] = []
    for number, group in enumerate(_GROUPS, start=1):
        found += group()
        on_progress(number, found[-1].name)
    return found


def _gradients() -> list[Check]:
    eager, gradient = _loss_and_gradient("eager")
    compiled, other = _loss_and_gradient("compiled")
    again_path = actual_path("auto")
    first = gradient if again_path == "eager" else other
    _, checkpointed = _loss_and_gradient(again_path, checkpointing=True)
    low, _ = _loss_and_gradient(again_path, dtype="bf16")
    return [
        Check(later("loss of the compiled step against the eager one"), abs(compiled - eager) / eager, _FP32_BOUND),
        Check(later("gradient of the compiled step against the eager one"), _distance(other, gradient), _FP32_BOUND),
        Check(
            later("gradient of a checkpointed step against a plain one"), _distance(checkpointed, first), _FP32_BOUND
        ),
        Check(later("loss in bf16 against fp32"), abs(low - eager) / eager, _BF16_BOUND),
    ]


def _loss_and_gradient(path: TrainPath, checkpointing: bool = False, dtype: str = "fp32") -> tuple[float, _Floats]:
    model, batch = _adapted(dtype)
    build = compiled_gradient if path == "compiled" else eager_gradient
    step = build(model, LossForm(checkpointing=checkpointing))
    (loss, _), gradient = step(mx.array(batch.ids), Targets.of(batch))
    arrays = [np.array(array.astype(mx.float32)).ravel() for _, array in sorted(tree_flatten(gradient))]
    return float(loss), np.concatenate(arrays)


def _adapted(dtype: str) -> tuple[nn.Module, MicroBatch]:
    """The embedded model with an adapter whose update is not 0, and rows to train on."""
    loaded = load_model(NANO, dtype)
    for layer in apply_lora(loaded.model, LoraOptions(rank=4, alpha=8.0), seed=0).values():
        layer.lora_b = (0.02 * mx.random.normal(layer.lora_b.shape)).astype(layer.lora_b.dtype)
    encoder = ChatEncoder(loaded.tokenizer)
    rows = [encoder.encode(record) for record in _records()]
    return loaded.model, collate(rows, max(len(row.ids) for row in rows))


def _records() -> list[Record]:
    return read_source(f"{SAMPLES_PREFIX}domain", DOMAIN)[:_ROWS]


def _distance(one: _Floats, other: _Floats) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


class _CtrlC(Silent):
    """Presses Ctrl-C after some steps of the stage `training`."""

    def __init__(self) -> None:
        self._trains = False

    def stage(self, name: str, total: int) -> None:
        self._trains = name == "training"

    def advance(self, done: int, note: str = "") -> None:
        if self._trains and done == _STOPPED_AFTER:
            signal.raise_signal(signal.SIGINT)


def _resume() -> list[Check]:
    options = (f"train.max_steps={_STEPS}", "train.rows_per_step=2", "train.learning_rate=1e-3", "lora.dropout=0.1")
    with tempfile.TemporaryDirectory() as folder:
        whole, stopped, rows = (Path(folder) / name for name in ("whole", "stopped", "rows.jsonl"))
        # Few rows, so that even a machine without a fast BLAS is done within a minute.
        lines = [json.dumps(record.as_row(), ensure_ascii=False) + "\n" for record in _records()]
        rows.write_text("".join(lines), encoding="utf-8")
        config = load_config(None, options, {"model": NANO, "sources": {"rows": {"path": str(rows)}}})
        train(config, whole, Silent())
        try:
            train(config, stopped, _CtrlC())
        except Interrupted:
            train(config, stopped, Silent(), resume=True)
            difference = _most_apart(stopped, whole)
        else:
            difference = math.inf  # Ctrl-C did not stop it
    return [Check(later("adapter of a run stopped and resumed against one that was not"), difference, 0.0)]


def _most_apart(one: Path, other: Path) -> float:
    first, second = (mx.load(str(RunDirectory(run).adapter / WEIGHTS_FILE)) for run in (one, other))
    return max(float(mx.abs(first[name] - second[name]).max().item()) for name in second)


def _constraint() -> list[Check]:
    """The share of random sequences whose state or permitted tokens differ from those found one token at a time."""
    constraint = build_constraint(load_model(NANO, "fp32"), Scripts.parse("ko"))
    if constraint is None:
        raise AssertionError("a policy of scripts has a constraint")
    allowed, after = np.array(constraint.table.allowed), np.array(constraint.table.after)
    tokens = np.random.default_rng(0).integers(0, len(after), (_SEQUENCES, _SEQUENCE_TOKENS))
    states = np.zeros(_SEQUENCES, np.int64)
    for column in tokens.T:
        states = after[column, states].astype(np.int64)
    found = np.array(constraint.table.state(mx.array(tokens)))
    masked = np.array(constraint.table.allowed[mx.array(found)])
    wrong = (found != states) | (masked != allowed[states]).any(axis=1)
    return [Check(later("states of the script constraint against one token at a time"), float(wrong.mean()), 0.0)]


_GROUPS: tuple[Callable[[], list[Check]], ...] = (_gradients, _resume, _constraint)
N_GROUPS = len(_GROUPS)
