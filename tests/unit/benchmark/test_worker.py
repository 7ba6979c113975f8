"""The three sides on MLX, run in this process on the tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_loopai.benchmark.backends import BACKENDS, open_side
from mlx_loopai.benchmark.cases import TrainCase, equal_rows, write_train_case
from mlx_loopai.benchmark.race_results import StepClock, StepTokens, TrainMeasured
from mlx_loopai.benchmark.resident import reset_peak_rss, resident_bytes, resident_peak_bytes
from mlx_loopai.benchmark.worker import Job, run_job
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.errors import InputError, LoopaiError

ON_MLX = ("mlx-loopai", "mlx-loopai-compiled", "mlx-lm")


@pytest.fixture(scope="module")
def case_folder(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """Six steps of two rows, at a rate at which training shows."""
    folder = tmp_path_factory.mktemp("race") / "case"
    case = TrainCase(str(tiny_model_folder), rows_per_step=2, steps=6, rank=2, learning_rate=1e-3)
    write_train_case(folder, case, equal_rows(300, 16, 12, 0))
    return folder


@pytest.fixture(scope="module")
def measured(case_folder: Path) -> dict[str, TrainMeasured]:
    """What each side on MLX reports; its adapter lies beside the case."""
    return {
        name: TrainMeasured(**run_job(Job("train", name, str(case_folder), str(case_folder / name)))) for name in ON_MLX
    }


def test_all_sides_begin_with_the_same_loss(measured: dict[str, TrainMeasured]) -> None:
    ours, compiled, theirs = (measured[name] for name in ON_MLX)
    assert ours.loss_first == pytest.approx(theirs.loss_first, rel=1e-5)
    assert compiled.loss_first == pytest.approx(theirs.loss_first, rel=1e-5)


def test_all_sides_count_the_same_tokens(measured: dict[str, TrainMeasured]) -> None:
    for one in measured.values():
        assert one.steps == 6
        # The first step is of a new shape; ten rows of 16 tokens remain, half of each supervised.
        assert (one.supervised_tokens, one.tokens) == (80, 160)
        assert one.all_tokens == 192
        assert one.timed_s > 0
        assert one.peak_bytes > 0
        assert one.weights_bytes > 100_000
    # mlx-lm pads to one more than a multiple of 32.
    assert measured["mlx-loopai"].real_token_share == 1.0
    assert measured["mlx-lm"].real_token_share == pytest.approx(16 / 33)


def test_all_adapters_learn_alike_by_one_evaluator(case_folder: Path, measured: dict[str, TrainMeasured]) -> None:
    def score(adapter: str) -> float:
        return run_job(Job("score", "mlx-loopai", str(case_folder), str(case_folder / adapter)))["held_out_nll"]

    base, ours, compiled, theirs = (score(name) for name in ("adapter", *ON_MLX))
    assert ours != base
    assert ours == pytest.approx(theirs, rel=0.02)
    assert compiled == pytest.approx(ours, rel=1e-5)
    for name in ON_MLX:
        arrays = mx.load(str(case_folder / name / "adapters.safetensors"))
        assert any(np.abs(np.array(array)).max() > 0 for key, array in arrays.items() if key.endswith("lora_b"))


def test_both_sides_answer_alike(tiny_model_folder: Path) -> None:
    wanted = {
        "model": str(tiny_model_folder),
        "prompts": [[5, 6, 7, 8], [9, 10], [11, 12, 13]],
        "max_tokens": 8,
        "batches": [1, 3],
    }
    ours, theirs = (run_job(Job("generate", name, generate=wanted)) for name in ("mlx-loopai", "mlx-lm"))
    for one, other in zip(ours["batches"], theirs["batches"], strict=True):
        assert one["answers"] == other["answers"]
        assert one["prompt_tokens"] == other["prompt_tokens"]
        assert one["first_token_s"] > 0
    assert [len(batch["answers"]) for batch in ours["batches"]] == [1, 3]
    assert ours["batches"][1]["prompt_tokens"] == 9


class FakeSide:
    """A side whose only step has a new shape."""

    def loss(self, rows: Sequence[TokenRow]) -> float:
        return 1.0

    def reset_peak(self) -> None:
        pass

    def train(self, case: TrainCase, rows: object, clock: StepClock) -> None:
        clock.start()
        clock.stop({(1, 1)}, StepTokens(1, 1, 1))


def test_a_race_in_which_nothing_was_timed_is_refused(case_folder: Path) -> None:
    with pytest.raises(LoopaiError, match="no step was timed"):
        run_job(Job("train", "mlx-lm", str(case_folder)), opened=lambda *_: FakeSide())


def test_an_unknown_side_is_refused() -> None:
    with pytest.raises(InputError, match="there are mlx-loopai, mlx-loopai-compiled, mlx-lm, torch-cpu, torch-mps"):
        open_side("jax", Path("nowhere"), None)
    assert len(BACKENDS) == 5


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "mlx_loopai.benchmark.backends.torch_peft", raising=False)
    with pytest.raises(
        LoopaiError, match=r"torch-cpu: torch is not installed; .* -m pip install 'mlx-loopai\[bench\]'"
    ):
        open_side("torch-cpu", Path("nowhere"), None)


def test_resident_memory_can_be_read() -> None:
    reset_peak_rss()
    assert resident_peak_bytes() >= resident_bytes() > 1 << 20
