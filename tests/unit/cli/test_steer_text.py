from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from mlx_loopai.cli import steer
from mlx_loopai.experiments.steering import Count, Kept, Tried, Tuning
from mlx_loopai.language import use

FOUND = Tuning(
    scripts=("han", "kana"),
    base=Count(20, 1000),
    tried=(Tried(0.7, Count(10, 1000)), Tried(0.5, Count(0, 1000))),
    factor=0.5,
    held_out=(Count(10, 1000), Count(1, 1000)),
    kept=Kept(0.995, per_task={"sums": 1.0, "translation": 0.99}, apart={"facts_zh": (0.6, 0.05)}),
)


@pytest.fixture
def _korean() -> Iterator[None]:
    use("ko")
    yield
    use("en")


def test_what_was_tried_and_what_is_kept() -> None:
    assert steer._text(FOUND).splitlines() == [
        "factor  letters per 1,000",
        "1                    20.0",
        "0.7                  10.0",
        "0.5                   0.0",
        "held-out prompts: 10.0 -> 1.0 (90% gone)",
        "kept of the other tasks: 0.995",
        "  sums         1.000",
        "  translation  0.990",
        "right answers to questions that need these scripts (not counted):",
        "  facts_zh  0.600 -> 0.050",
        "--steer han=0.5,kana=0.5",
    ]


@pytest.mark.usefixtures("_korean")
def test_a_korean_reads_korean() -> None:
    words = set(re.findall(r"[a-z_]{3,}", steer._text(FOUND)))
    assert words == {"sums", "translation", "facts_zh", "steer", "han", "kana"}


def test_a_program_reads_both_scores() -> None:
    assert steer._document(FOUND)["apart"] == {"facts_zh": {"base": 0.6, "score": 0.05}}
