"""Turns a client's judgement of an answer into a row of the feedback file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from mlx_loopai.data.conversation import Record
from mlx_loopai.data.feedback import feedback_rows
from mlx_loopai.data.pairs import Judged, Label, Pair, read_judged
from mlx_loopai.data.turns import UnreadableError
from mlx_loopai.language import tr
from mlx_loopai.serving.request_body import json_object
from mlx_loopai.serving.shapes import ApiError

_SOURCES = ("pick", "edit", "vote", "draft")


def feedback_row(body: bytes, model: str) -> dict[str, Any]:
    """The row that a body holds: prompt, chosen and rejected, or prompt, completion and label; in one form.

    model: the name of the model that answered. Raises: ApiError 400 saying what is wrong.
    """
    fields = json_object(body)
    source = fields.get("source", "vote" if "label" in fields else "pick")
    if source not in _SOURCES:
        raise ApiError(
            400,
            tr("source {source!r}: expected one of {sources}", source=str(source)[:40], sources=", ".join(_SOURCES)),
            "source",
        )
    if _shows_pictures(fields):
        raise ApiError(
            400, tr("pictures: judgements of answers to them are not kept, since no run learns from them yet")
        )
    try:
        read = read_judged(fields)
    except UnreadableError as error:
        raise ApiError(400, str(error)) from None
    meaning = read.meaning
    answer = Record(meaning.messages, kind=meaning.kind, category="domain", origin="feedback", tools=meaning.tools)
    judged: Judged
    if read.rejected is not None:
        worse = Record(
            read.rejected.messages,
            kind=read.rejected.kind,
            category="domain",
            origin="feedback",
            tools=read.rejected.tools,
        )
        judged = Pair(answer, worse)
    elif read.good is not None:
        judged = Label(answer, read.good)
    else:
        raise ApiError(400, tr("neither chosen and rejected nor a label of true or false: nothing was judged"))
    (row,) = feedback_rows([judged], source=source, model=model, time=round(time.time()))
    return row


def _shows_pictures(fields: Mapping[str, Any]) -> bool:
    """Whether a row names pictures, or one of its turns has a part that is one."""
    turns = [turn for value in fields.values() if isinstance(value, list) for turn in value]
    contents = [turn.get("content") for turn in turns if isinstance(turn, Mapping)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    kinds = {str(part.get("type")) for part in parts if isinstance(part, Mapping)}
    return bool(fields.get("images") or fields.get("image") or kinds & {"image", "image_url"})
