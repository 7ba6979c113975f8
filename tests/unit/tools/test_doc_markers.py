from __future__ import annotations

from pathlib import Path

import pytest

from mlx_loopai.errors import InputError
from tools.doc_markers import in_language_of, with_marked

DOCUMENT = (
    "# Title\n<!-- one: begin -->\nold\n\nolder\n<!-- one: end -->\nrest\n<!-- two: begin -->\n<!-- two: end -->\n"
)


def test_only_what_stands_between_the_named_markers_is_replaced() -> None:
    once = with_marked(DOCUMENT, "one", "| new |", "it")
    assert once == DOCUMENT.replace("old\n\nolder", "| new |")
    assert with_marked(once, "one", "| new |", "it") == once
    assert with_marked(DOCUMENT, "two", "x\ny", "it").endswith("<!-- two: begin -->\nx\ny\n<!-- two: end -->\n")


@pytest.mark.parametrize("lost", ["<!-- one: begin -->\n", "<!-- one: end -->\n"])
def test_a_document_that_lost_a_marker_is_refused_and_both_are_named(lost: str) -> None:
    with pytest.raises(
        InputError, match=r"docs/a.md: no markers for the one; keep the lines <!-- one: begin --> and <!-- one: end -->"
    ):
        with_marked(DOCUMENT.replace(lost, ""), "one", "new", "docs/a.md")


def test_a_korean_document_gets_korean_words_and_ranges() -> None:
    table = "| step | peak of a step |\n| 1 | -0.5 (-1.0 to 0.2) |"
    words = {"step": "스텝", "peak of a step": "최대"}
    assert in_language_of(Path("README.md"), table, words) == table
    assert in_language_of(Path("README.ko.md"), table, words) == "| 스텝 | 최대 |\n| 1 | -0.5 (-1.0~0.2) |"
