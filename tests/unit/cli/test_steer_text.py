from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from mlx_loopai.cli import steer
from mlx_loopai.experiments.steering import Count, Kept, Tried, Tuning
from mlx_loopai.language import use


def _count(foreign: int) -> Count:
    """Letters of a prompt whose answers have a thousand."""
    return Count(((foreign, 1000),))


FOUND = Tuning(
    scripts=("han", "kana"),
    base=_count(20),
    tried=(Tried(0.7, _count(10)), Tried(0.5, _count(0))),
    factor=0.5,
    held_out=(_count(10), _count(1)),
    kept=Kept(0.995, per_task={"sums": 1.0, "translation": 0.99}, apart={"facts_zh": (0.6, 0.05)}),
)


@pytest.fixture
def _korean() -> Iterator[None]:
    use("ko")
    yield
    use("en")


def test_what_was_tried_and_what_is_kept() -> None:
    assert steer._text(FOUND).splitlines() == [
        "factor  letters per 1,000  gone, at least",
        "1                    20.0                ",
        "0.7                  10.0             45%",
        "0.5                   0.0             95%",
        "held-out prompts: 10.0 -> 1.0 (90% gone, at least 80%)",
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


def test_a_program_reads_both_scores_and_how_sure_a_reduction_is() -> None:
    document = steer._document(FOUND)
    assert document["apart"] == {"facts_zh": {"base": 0.6, "score": 0.05}}
    assert document["held_out"]["reduction_interval"] == pytest.approx((0.8, 0.8))
    assert [one["reduction_interval"][0] for one in document["tried"]] == pytest.approx([0.45, 0.95])
