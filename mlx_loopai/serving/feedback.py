"""Turns a client's judgement of an answer into a row of the feedback file."""

from __future__ import annotations

import time
from typing import Any

from mlx_loopai.data.conversation import Record
from mlx_loopai.data.feedback import feedback_rows
from mlx_loopai.data.pairs import Judged, Label, Pair, read_judged
from mlx_loopai.data.turns import UnreadableError
from mlx_loopai.language import tr
from mlx_loopai.serving.request_body import json_object
from mlx_loopai.serving.shapes import ApiError

_SOURCES = ("pick", "edit", "vote")


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
