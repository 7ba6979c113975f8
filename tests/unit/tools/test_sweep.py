"""The sweep's table is what its result file says, and its questions are not the probes'."""

from __future__ import annotations

import pytest

from mlx_loopai.data.samples import corpus, skills
from mlx_loopai.errors import InputError
from tools import sweep


def test_the_committed_table_is_made_from_the_committed_results() -> None:
    document = sweep.DOCUMENT.read_text(encoding="utf-8")
    assert sweep.with_table(document, sweep.read_results()) == document


def test_options_are_chosen_on_questions_that_are_neither_probed_nor_rehearsed() -> None:
    asked = {item.prompt for task in sweep.open_tasks() for item in task.items}
    probed = {item.prompt for skill in skills.SKILLS for item in skills.items(skill, probe=True)}
    rehearsed = {message.content for record in corpus.sample("general") for message in record.messages}
    assert asked
    assert not asked & probed
    assert not asked & rehearsed


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(InputError, match="markers"):
        sweep.with_table("# Experiments\n", [])
