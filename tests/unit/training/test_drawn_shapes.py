"""Nano learns to see: what it says of drawings whose combination of shape, colour and place it was never taught."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from converters.vision_encoder import add_encoder
from mlx_loopai.config import load_config
from mlx_loopai.evaluation.suite_run import run_suite
from mlx_loopai.evaluation.suites import read_suite
from mlx_loopai.evaluation.tasks import TaskResult
from mlx_loopai.generation.session import open_session
from mlx_loopai.training.run import train
from tests.drawn_shapes import Drawing, drawings, write_rows
from tests.unit.conftest import Heard


def said_of(folder: Path, taught: Sequence[Drawing], held_out: Sequence[Drawing], steps: int) -> list[TaskResult]:
    """What nano, taught some combinations in `steps`, says of drawings of others, and of exchanged drawings."""
    model = add_encoder("nano", "patches", folder / "model", grid=2).out
    values = {
        "model": str(model),
        "sources": {"drawings": {"path": str(write_rows(folder / "taught", taught, each=30, seed=0))}},
        "lora": {"rank": 16, "alpha": 32},
        "train": {
            "max_steps": steps, "rows_per_step": 16, "learning_rate": 3e-3, "bias_correction": True, "save_every": 0,
        },
    }  # fmt: skip
    train(load_config(None, (), values), folder / "run", Heard())
    write_rows(folder / "held_out", held_out, each=8, seed=1)
    (folder / "suite.yaml").write_text("seen: {kind: caption, file: held_out/rows.jsonl, match: exact}\n")
    session = open_session(str(model), folder / "run", dtype="fp32")
    return list(run_suite(session.loaded, session.tools.encoder, read_suite(str(folder / "suite.yaml"))).tasks)


def test_colours_and_places_that_never_met(tmp_path: Path) -> None:
    combinations = drawings(["동그라미"])
    held_out = [drawing for drawing in combinations if drawing.held_out]
    seen, exchanged = said_of(tmp_path, [one for one in combinations if one not in held_out], held_out, steps=110)
    assert len(held_out) == 4
    assert seen.score >= 0.9
    assert exchanged.score <= exchanged.chance


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_shapes_colours_and_places_that_never_met(tmp_path: Path) -> None:
    held_out = [drawing for drawing in drawings() if drawing.held_out]
    seen, exchanged = said_of(tmp_path, [one for one in drawings() if not one.held_out], held_out, steps=160)
    assert len(held_out) == 12
    assert seen.score >= 0.9
    assert exchanged.score <= exchanged.chance
