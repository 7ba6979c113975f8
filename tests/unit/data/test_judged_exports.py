"""Pairs as Argilla, UltraFeedback and distilabel export them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.data.judged_exports import exported_pair
from mlx_loopai.data.pairs import read_judged
from mlx_loopai.data.turns import UnreadableError

FIELDS = {"prompt": "안녕?", "response1": "네.", "response2": "Hi"}
SCORED = [{"response": "Hi", "overall_score": 3.0}, {"response": "네.", "overall_score": 8.5}, {"response": "음", "overall_score": 5}]  # fmt: skip


def votes(*names: str, status: str = "submitted") -> dict[str, Any]:
    return {
        "preference": [{"value": name, "user_id": str(number), "status": status} for number, name in enumerate(names)]
    }


RANKED = {"order": [{"value": [{"value": "response1", "rank": 1}, {"value": "response2", "rank": 2}], "user_id": "u"}]}
OLDER = [{"user_id": "u", "status": "submitted", "values": {"preference": {"value": "response1"}}}]


@pytest.mark.parametrize(
    "row",
    [
        {"id": "1", "fields": FIELDS, "responses": votes("response1", "response2", "response1")},
        {"fields": json.dumps(FIELDS), "responses": json.dumps(votes("response1"))},
        {"fields": FIELDS, "responses": RANKED},
        {"fields": FIELDS, "responses": OLDER},
        {"instruction": "안녕?", "completions": SCORED, "models": ["a", "b", "c"]},
        {"instruction": "안녕?", "completions": json.dumps(SCORED)},
        {"system": "짧게.", "input": "안녕?", "chosen": "네.", "rejected": "Hi", "rating": [9, 2]},
    ],
)
def test_the_preferred_answer_is_chosen(row: dict[str, Any]) -> None:
    found = read_judged(row)
    assert found.rejected is not None
    assert [message.content for message in found.meaning.messages][-2:] == ["안녕?", "네."]
    assert found.rejected.messages[-1].content == "Hi"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"fields": FIELDS, "responses": {}}, "nobody preferred"),
        ({"fields": FIELDS, "responses": votes("response1", "response2")}, "nobody preferred"),
        ({"fields": FIELDS, "responses": votes("response1", status="discarded")}, "nobody preferred"),
        (
            {"fields": FIELDS, "responses": {"order": [{"value": [{"value": ["response1"], "rank": 1}, 3]}, 5]}},
            "nobody",
        ),
        ({"fields": {"prompt": "안녕?"}, "responses": {}}, "without a prompt and two answers"),
        ({"instruction": "안녕?", "completions": SCORED[:1]}, "fewer than two completions"),
        ({"instruction": "안녕?", "completions": [SCORED[0], SCORED[0]]}, "the same overall_score"),
    ],
)
def test_what_nobody_preferred_is_no_pair(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason):
        read_judged(row)


@given(st.dictionaries(st.sampled_from(["prompt", "messages", "text", "chosen", "label", "input"]), st.text()))
def test_other_rows_stay_as_they_are(row: dict[str, str]) -> None:
    assert {"chosen", "rejected"} <= row.keys() or exported_pair(row) == row
