"""The table of the gated delta rule is that of its result file, which keeps what was promised."""

from __future__ import annotations

import json

from tools.doc_markers import with_marked
from tools.publish_gated_delta import DOCUMENT, NAME, RESULT, table

FOUND = json.loads(RESULT.read_text(encoding="utf-8"))


def test_the_table_is_that_of_the_result() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert document == with_marked(document, NAME, table(FOUND), DOCUMENT)


def test_the_result_keeps_what_was_promised() -> None:
    short = FOUND["races"][0]
    assert short["tokens"] == 512
    assert min(short["rate"], short["rate_of_processor"]) >= 8
    assert all(race["peak_share"] <= 0.15 and race["loss_difference"] < 1e-4 for race in FOUND["races"])
    for a_token in FOUND["peak_bytes_a_token"].values():
        assert max(a_token.values()) < 1.25 * min(a_token.values())
