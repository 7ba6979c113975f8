"""Batches of real Korean data: little padding, few widths, nothing cut.

MLX_LOOPAI_REAL_TOKENIZER names the tokenizer's folder; MLX_LOOPAI_REAL_DATA one that holds chatbot_data/ChatbotData.csv
(questions and answers) and ko_public_domain_lit/*.txt (stories).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from mlx_loopai.cli.main import main
from mlx_loopai.data.batches import choose_widths, plan_steps, real_token_share, share_in_file_order
from mlx_loopai.data.encoding import encode_records
from mlx_loopai.data.records import read_records
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.models.load import load_tokenizer

TOKENIZER = os.environ.get("MLX_LOOPAI_REAL_TOKENIZER", "")
DATA = os.environ.get("MLX_LOOPAI_REAL_DATA", "")
CHATBOT = Path(DATA, "chatbot_data", "ChatbotData.csv")
STORIES = sorted(Path(DATA, "ko_public_domain_lit").glob("*_*.txt")) if DATA else []
MAX_TOKENS = 2048

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not TOKENIZER, reason="MLX_LOOPAI_REAL_TOKENIZER names no folder"),
    pytest.mark.skipif(
        not CHATBOT.is_file() or not STORIES, reason="MLX_LOOPAI_REAL_DATA names no folder of both sets"
    ),
]


@pytest.fixture(scope="module")
def encoder() -> ChatEncoder:
    return ChatEncoder(load_tokenizer(Path(TOKENIZER)))


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stories") / "stories.jsonl"
    lines = [json.dumps({"text": story.read_text(encoding="utf-8")}, ensure_ascii=False) for story in STORIES]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("rows_per_step", [4, 8, 16])
def test_chatbot_rows_are_hardly_padded(encoder: ChatEncoder, rows_per_step: int) -> None:
    records = read_records(CHATBOT)
    rows, notice = encode_records(encoder, records, MAX_TOKENS)
    assert len(records) == len(rows) == 11_823
    assert notice is None
    lengths = [len(row.ids) for row in rows]
    widths = choose_widths(lengths)
    assert len(widths) <= 24
    assert real_token_share(lengths, plan_steps(lengths, rows_per_step, MAX_TOKENS, seed=0), widths) >= 0.95
    assert share_in_file_order(lengths, rows_per_step) < 0.9


def test_stories_are_divided_at_sentences_and_hardly_padded(encoder: ChatEncoder, stories: Path) -> None:
    records = read_records(stories, "creative")
    rows, notice = encode_records(encoder, records, MAX_TOKENS)
    lengths = [len(row.ids) for row in rows]
    widths = choose_widths(lengths)
    assert len(widths) <= 24
    assert max(lengths) <= MAX_TOKENS
    assert real_token_share(lengths, plan_steps(lengths, 4, 4 * MAX_TOKENS, seed=0), widths) >= 0.95
    assert notice is not None
    assert "divided at turns and sentences" in str(notice)
    # Every token of every story is taught exactly once, but its first, which nothing comes before.
    taught = np.concatenate([row.ids[row.supervised] for row in rows]).tolist()
    assert taught == [token for record in records for token in encoder.encode(record).ids[1:].tolist()]


@pytest.mark.timeout(1800)  # an epoch of 800 rows
def test_a_run_reports_its_share_beside_mlx_lms(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    few = tmp_path / "few.csv"
    few.write_text("".join(CHATBOT.read_text(encoding="utf-8").splitlines(keepends=True)[:801]), encoding="utf-8")
    assert main(["train", "--data", str(few), "--out", str(tmp_path / "run"), "--set", "lora.rank=2", "--json"]) == 0
    summary = json.loads(capfd.readouterr().out)
    assert summary["real_token_share"] >= 0.95 > summary["mlx_lm_token_share"]
