from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mlx_loopai.benchmark.cases import (
    TrainCase,
    answer_start,
    equal_rows,
    file_rows,
    read_train_case,
    write_thin_model,
    write_train_case,
)
from mlx_loopai.benchmark.steps import PlannedSteps
from mlx_loopai.errors import InputError
from mlx_loopai.models.load import load_model


@pytest.fixture
def chat_file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    lines = [f"질문 {number},대답 {'가' * (number % 7)}{number}" for number in range(20)]
    path.write_text("Q,A\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_case_comes_back_as_it_was_written(tmp_path: Path, tiny_model_folder: Path, chat_file: Path) -> None:
    rows = file_rows(tiny_model_folder, chat_file, 0, 64, seed=3)
    case = TrainCase(str(tiny_model_folder), rows_per_step=2, rank=3)
    write_train_case(tmp_path / "case", case, rows)
    again, found = read_train_case(tmp_path / "case")
    assert again == case
    for before, after in zip(rows.train + rows.held_out, found.train + found.held_out, strict=True):
        assert np.array_equal(before.ids, after.ids)
        assert np.array_equal(before.supervised, after.supervised)
    config = json.loads((tmp_path / "case" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["lora_parameters"]["scale"] == 20.0
    assert config["lora_parameters"]["rank"] == 3


def test_file_rows_are_drawn_by_seed_and_none_is_held_out_and_trained_on(
    tiny_model_folder: Path, chat_file: Path
) -> None:
    rows = file_rows(tiny_model_folder, chat_file, 10, 64, seed=1)
    assert (len(rows.train), len(rows.held_out)) == (10, 4)
    origins = [row.origin for row in rows.train + rows.held_out]
    assert len(set(origins)) == 14
    assert origins != [row.origin for row in file_rows(tiny_model_folder, chat_file, 10, 64, seed=2).train]
    for row in rows.train:
        start = answer_start(row)
        assert start > 0
        assert row.supervised[start:].all()
        assert not row.supervised[:start].any()


def test_too_few_rows_and_several_answers_are_refused(tmp_path: Path, tiny_model_folder: Path, chat_file: Path) -> None:
    with pytest.raises(InputError, match="20 rows, but the race needs 26 and 4 held out"):
        file_rows(tiny_model_folder, chat_file, 26, 64, seed=0)
    turns = [{"role": role, "content": "네"} for role in ("user", "assistant", "user", "assistant")]
    several = tmp_path / "several.jsonl"
    several.write_text((json.dumps({"messages": turns}) + "\n") * 5, encoding="utf-8")
    with pytest.raises(InputError, match=r"several.jsonl:1: has more than one answer"):
        file_rows(tiny_model_folder, several, 0, 64, seed=0)
    with pytest.raises(InputError, match="at least 4"):
        equal_rows(300, 2, 4, 0)


def test_planned_steps_hold_every_row_once_and_then_begin_again(tiny_model_folder: Path, chat_file: Path) -> None:
    rows = file_rows(tiny_model_folder, chat_file, 16, 64, seed=0)
    planned = PlannedSteps(TrainCase(str(tiny_model_folder), rows_per_step=4), rows)
    held = [planned.batches(number)[1] for number in range(planned.count)]
    assert planned.count == 4
    assert sum(one.real for one in held) == sum(len(row.ids) for row in rows.train)
    assert sum(one.supervised for one in held) == sum(int(row.supervised.sum()) for row in rows.train)
    assert all(one.computed >= one.real for one in held)
    assert planned.batches(4)[1] == held[0]


def test_a_thin_model_is_a_model(tmp_path: Path) -> None:
    loaded = load_model(str(write_thin_model(tmp_path / "thin", 500, 0)), "fp32")
    assert loaded.shape.vocab_size == 500
    assert loaded.shape.tied_head
