"""KoBEST BoolQ: MLX_LOOPAI_REAL_BOOLQ names a file of its questions (BoolQ_train.tsv)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bench_programs import bench_program

BOOLQ = os.environ.get("MLX_LOOPAI_REAL_BOOLQ", "")

pytestmark = [pytest.mark.real, pytest.mark.skipif(not BOOLQ, reason="MLX_LOOPAI_REAL_BOOLQ names no file")]


def test_character_pairs_find_more_paragraphs_than_words() -> None:
    program = bench_program("retrieval")
    found = program.quality(program.read_questions(Path(BOOLQ)))
    assert found["questions"] >= 700
    assert found["pairs"]["r1"] >= found["words"]["r1"] + 0.05
    assert found["gain_r1_interval"][0] >= 0.05
