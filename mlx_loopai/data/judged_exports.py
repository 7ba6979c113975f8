"""Judged answers as programs export them in which people or models judged, made into pairs of one form.

Read are Argilla's records (fields, and what each person answered about them), UltraFeedback's rows (an instruction with
scored completions), and distilabel's (`input` beside `chosen` and `rejected`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mlx_loopai.data.shapes import CHAT_NAMES, REQUEST_NAMES, unpacked
from mlx_loopai.data.turns import UnreadableError
from mlx_loopai.language import tr


def exported_pair(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """`row` as a row with prompt, chosen and rejected, where it is one of these exports; otherwise as it is.

    Raises: UnreadableError when nobody preferred one of its answers.
    """
    fields, completions = unpacked(row.get("fields")), unpacked(row.get("completions"))
    if isinstance(fields, Mapping) and "responses" in row:
        return _of_argilla(fields, unpacked(row["responses"]))
    if isinstance(completions, list) and all(_is_scored(one) for one in completions):
        return _of_scores(row, completions)
    asked = row.get("input")
    if {"chosen", "rejected"} <= row.keys() and isinstance(asked, str) and isinstance(unpacked(asked), str):
        named = any(name in row for name in (*REQUEST_NAMES, *CHAT_NAMES))
        return row if named else {name: value for name, value in row.items() if name != "input"} | {"prompt": asked}
    return row


def _of_argilla(fields: Mapping[str, Any], responses: Any) -> dict[str, Any]:
    request = next((name for name in REQUEST_NAMES if name in fields), None)
    answers = [name for name, value in fields.items() if name != request and isinstance(value, str) and value.strip()]
    if request is None or len(answers) < 2:
        raise UnreadableError(tr("a record without a prompt and two answers among its `fields`"))
    wins: Counter[str] = Counter(dict.fromkeys(answers, 0))
    for value in _values(responses):
        wins.update(_points(value, answers))
    better, worse = max(answers, key=wins.__getitem__), min(answers, key=wins.__getitem__)
    if wins[better] == wins[worse]:
        raise UnreadableError(tr("nobody preferred one of the answers {answers}", answers=", ".join(answers)))
    return {"prompt": fields[request], "chosen": fields[better], "rejected": fields[worse]}


def _values(responses: Any) -> list[Any]:
    """What every person answered to every question: {question: [{value, ...}]}, or a list of {values: {question: ...}}
    as older versions have it. What a person discarded does not count."""
    if isinstance(responses, Mapping):
        given = [one for answers in responses.values() if isinstance(answers, list) for one in answers]
    else:
        given = []
        for one in responses if isinstance(responses, list) else []:
            values = one.get("values") if isinstance(one, Mapping) else None
            if isinstance(values, Mapping):
                status = {"status": one.get("status")}
                given += [{**value, **status} for value in values.values() if isinstance(value, Mapping)]
    return [
        one.get("value") for one in given if isinstance(one, Mapping) and one.get("status", "submitted") != "discarded"
    ]


def _points(value: Any, answers: Sequence[str]) -> dict[str, int]:
    """A chosen answer has one point; a ranked one as many as there are answers behind it."""
    if isinstance(value, str):
        return {value: 1} if value in answers else {}
    if not isinstance(value, list):
        return {}
    given = [(one.get("value"), one.get("rank")) for one in value if isinstance(one, Mapping)]
    known = {name: rank for name, rank in given if isinstance(name, str) and name in answers and isinstance(rank, int)}
    return {name: sum(rank < other for other in known.values()) for name, rank in known.items()}


def _is_scored(completion: Any) -> bool:
    return isinstance(completion, Mapping) and "response" in completion and "overall_score" in completion


def _of_scores(row: Mapping[str, Any], completions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    scored = [one for one in completions if isinstance(one["overall_score"], (int, float))]
    if len(scored) < 2:
        raise UnreadableError(tr("fewer than two completions with an overall_score"))
    best, worst = (choose(scored, key=lambda one: float(one["overall_score"])) for choose in (max, min))
    if best["overall_score"] == worst["overall_score"]:
        raise UnreadableError(tr("every completion has the same overall_score"))
    rest = {name: value for name, value in row.items() if name != "completions"}
    return rest | {"chosen": best["response"], "rejected": worst["response"]}
