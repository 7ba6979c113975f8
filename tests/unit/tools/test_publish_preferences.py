"""The table of runs on judged answers is that of its result file, which says what was promised and what was not kept."""

from __future__ import annotations

import json

from tools.doc_markers import with_marked
from tools.publish_preferences import DOCUMENT, NAME, RESULTS, table

RUNS = json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_table_is_that_of_the_results() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert document == with_marked(document, NAME, table(RUNS), DOCUMENT)


def test_every_run_can_be_repeated_and_says_how_it_was_judged() -> None:
    for run in RUNS:
        assert all(command.startswith("mlx-loopai ") for command in run["commands"])
        assert {"run", "commands", "pairs", "held out", "steps", "seed", "commit"} <= run.keys()
