"""PyTorch's side of a race against ours, on the tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_loopai.benchmark.cases import TrainCase, equal_rows, write_train_case
from mlx_loopai.benchmark.race_results import TrainMeasured
from mlx_loopai.benchmark.worker import Job, run_job

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_torch_trains_to_the_same_adapter(tmp_path: Path, tiny_model_folder: Path, checkpointing: bool) -> None:
    pytest.importorskip("peft")
    import mlx.core as mx
    import numpy as np

    case = TrainCase(
        str(tiny_model_folder), rows_per_step=2, steps=4, rank=2, learning_rate=1e-3, checkpointing=checkpointing
    )
    folder = tmp_path / "case"
    write_train_case(folder, case, equal_rows(300, 16, 8, 0))
    found = {}
    for name in ("mlx-loopai", "torch-cpu"):
        measured = TrainMeasured(**run_job(Job("train", name, str(folder), str(folder / name))))
        found[name] = (measured, mx.load(str(folder / name / "adapters.safetensors")))
    (ours, our_arrays), (theirs, their_arrays) = found.values()
    assert theirs.loss_first == pytest.approx(ours.loss_first, rel=1e-5)
    assert (theirs.steps, theirs.supervised_tokens) == (ours.steps, ours.supervised_tokens)
    assert our_arrays.keys() == their_arrays.keys()
    for name, array in our_arrays.items():
        # The same batches and the same Adam: the same adapter but for rounding.
        np.testing.assert_allclose(np.array(their_arrays[name]), np.array(array), atol=2e-4, err_msg=name)


def test_torch_answers_alike(tiny_model_folder: Path) -> None:
    pytest.importorskip("torch")
    wanted = {"model": str(tiny_model_folder), "prompts": [[5, 6, 7], [9, 10]], "max_tokens": 6, "batches": [1, 2]}
    ours, theirs = (run_job(Job("generate", name, generate=wanted)) for name in ("mlx-loopai", "torch-cpu"))
    for one, other in zip(ours["batches"], theirs["batches"], strict=True):
        assert one["answers"] == other["answers"]
