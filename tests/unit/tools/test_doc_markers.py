from __future__ import annotations

import pytest

from mlx_loopai.errors import InputError
from tools.doc_markers import with_marked

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
