"""The server's answers in the shape of OpenAI's API: whole, or as events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mlx_loopai.generation.batch import Chance
from mlx_loopai.generation.prompts import Source
from mlx_loopai.serving.logprobs import Spelling
from mlx_loopai.serving.shapes import ApiError, Report
from mlx_loopai.serving.tool_calls import Call, CallForm, CallReader

DONE = "data: [DONE]\n\n"


@dataclass(frozen=True)
class Told:
    """One complete choice: its text, the log-probabilities of its tokens, and its report."""

    text: str
    chances: tuple[Chance, ...]
    report: Report


@dataclass(frozen=True)
class Reply:
    """Writes the answer of `model` in the shape of a chat or of a plain completion.

    choices: how many texts it holds. spelling: for log-probabilities; None: none were asked for. calls: how the model
    calls functions. sources: the passages that the model was shown; None without retrieval.
    """

    model: str
    chat: bool
    choices: int = 1
    with_usage: bool = False
    spelling: Spelling | None = None
    calls: CallForm | None = None
    sources: Sequence[Source] | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, told: Sequence[Told]) -> dict[str, Any]:
        """The document of all choices."""
        kind = "chat.completion" if self.chat else "text_completion"
        choices = [self._whole_choice(index, one) for index, one in enumerate(told)]
        more = {"usage": usage([one.report for one in told]), "mlx_loopai": self.own(told[0].report)}
        return self._document(kind, choices, more)

    def _whole_choice(self, index: int, told: Told) -> dict[str, Any]:
        reader = CallReader(self.calls)
        parts = [*reader.feed(told.text), *reader.close()]
        said = "".join(part for part in parts if isinstance(part, str))
        content: dict[str, Any] = {"text": said}
        if self.chat:
            calls = [part.as_dict() for part in parts if isinstance(part, Call)]
            message = {"role": "assistant", "content": said or None if calls else said}
            content = {"message": message | ({"tool_calls": calls} if calls else {})}
        finish = _finish(told.report, reader)
        own = {"mlx_loopai": self.own(told.report)} if self.choices > 1 else {}
        return _choice(index, content, finish, self.logprobs_of(told.chances, 0)) | own

    def logprobs_of(self, chances: Sequence[Chance], offset: int) -> dict[str, Any] | None:
        """The field `logprobs` of a choice, for tokens that begin at character `offset` of its text."""
        if self.spelling is None:
            return None
        return self.spelling.chat(chances) if self.chat else self.spelling.plain(chances, offset)

    def own(self, report: Report) -> dict[str, Any]:
        """The field `mlx_loopai`."""
        cited = {} if self.sources is None else {"sources": [asdict(source) for source in self.sources]}
        return report.details | cited

    def chunk(self, choices: list[dict[str, Any]], more: Mapping[str, Any]) -> str:
        """One event."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return _data(self._document(kind, choices, more))

    def _document(self, kind: str, choices: list[dict[str, Any]], more: Mapping[str, Any]) -> dict[str, Any]:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }


class ChoiceStream:
    """One choice of a reply as events: the opening, pieces as they come, and the ending."""

    def __init__(self, reply: Reply, index: int) -> None:
        self._reply, self._index = reply, index
        self._reader = CallReader(reply.calls)
        self._n_calls = self._n_written = 0

    def opening(self) -> str:
        """The first event: whose turn it is. Plain completions have none."""
        return self._event({"delta": {"role": "assistant", "content": ""}}) if self._reply.chat else ""

    def piece(self, text: str, chances: Sequence[Chance]) -> str:
        """The events for a piece of the text, with the log-probabilities of its tokens."""
        events = self._parts(self._reader.feed(text))
        if not chances:
            return "".join(self._event(content) for content in events)
        logprobs = self._reply.logprobs_of(chances, self._n_written)
        self._n_written += sum(len(name) for name in (logprobs or {}).get("tokens", ()))
        first, *rest = events or [self._said("")]
        return self._event(first, logprobs=logprobs) + "".join(self._event(content) for content in rest)

    def ending(self, report: Report) -> str:
        """The last events of the choice: text that was held back, and the reason why it ended."""
        rest = "".join(self._event(content) for content in self._parts(self._reader.close()))
        content: dict[str, Any] = {"delta": {}} if self._reply.chat else {"text": ""}
        own = {"mlx_loopai": self._reply.own(report)}
        return rest + self._event(content, _finish(report, self._reader), more=own)

    def _parts(self, parts: Sequence[str | Call]) -> list[dict[str, Any]]:
        found = []
        for part in parts:
            if isinstance(part, str):
                found.append(self._said(part))
            else:
                found.append({"delta": {"tool_calls": [{"index": self._n_calls, **part.as_dict()}]}})
                self._n_calls += 1
        return found

    def _said(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text}} if self._reply.chat else {"text": text}

    def _event(
        self,
        content: Mapping[str, Any],
        finish: str | None = None,
        logprobs: Mapping[str, Any] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> str:
        usage = {"usage": None} if self._reply.with_usage else {}
        return self._reply.chunk([_choice(self._index, content, finish, logprobs)], {**usage, **(more or {})})


def closing(reply: Reply, reports: Sequence[Report]) -> str:
    """The last events of a reply: the usage of all choices, if asked for, and the end mark."""
    return (reply.chunk([], {"usage": usage(reports)}) if reply.with_usage else "") + DONE


def failure(error: ApiError) -> str:
    """An error after the answer began: its status can no longer be changed."""
    return _data(error.body) + DONE


def usage(reports: Sequence[Report]) -> dict[str, Any]:
    """The usage of the choices of one request; their prompt counts once."""
    prompt = reports[0].written.prompt_tokens
    completion = sum(report.written.generated_tokens for report in reports)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": reports[0].cached_tokens},
    }


def _finish(report: Report, reader: CallReader) -> str:
    return "tool_calls" if reader.called and report.finish == "stop" else report.finish


def _choice(
    index: int, content: Mapping[str, Any], finish: str | None, logprobs: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {"index": index, **content, "logprobs": logprobs, "finish_reason": finish}


def _data(document: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(document, ensure_ascii=False, allow_nan=False)}\n\n"
