"""lm-eval itself, where the extra is installed: KoBEST's COPA, on rows of our own that stand where it looks for its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_loopai.evaluation.lm_eval import LmEval, evaluate
from mlx_loopai.models.load import NANO_FOLDER

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
ROWS = [
    {"premise": "비가 왔다.", "question": "결과", "alternative_1": "땅이 젖었다.", "alternative_2": "땅이 말랐다.", "label": 0},
    {"premise": "창문이 깨졌다.", "question": "원인", "alternative_1": "해가 졌다.", "alternative_2": "공이 날아왔다.", "label": 1},
]  # fmt: skip
DATASET = "skt/kobest_v1"  # a folder of that name in the working folder goes before the hub


def test_a_task_runs_offline_on_rows_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    folder = tmp_path / DATASET
    folder.mkdir(parents=True)
    splits = ("train", "validation", "test")
    for split in splits:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    files = "".join(f"  - {{split: {split}, path: {split}.jsonl}}\n" for split in splits)
    card = f"---\nconfigs:\n- config_name: copa\n  data_files:\n{files}---\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    scores = evaluate(LmEval.of("lm-eval:kobest_copa"), NANO_FOLDER)["kobest_copa"]
    assert scores["sample_len"] == len(ROWS)
    assert scores["acc,none"] in (0.0, 0.5, 1.0)
