"""Answers and errors in the shapes of OpenAI's API, so that its clients read them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mlx_loopai.errors import LoopaiError
from mlx_loopai.generation.answer_stream import Text
from mlx_loopai.generation.prompts import Source

Finish = Literal["stop", "length"]
_RETRY_S = 5
DONE = "data: [DONE]\n\n"


class ApiError(LoopaiError):
    """A request that is answered with an error status. `param` names the field that is at fault."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, retry_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_s = status, param, code, retry_s

    @property
    def body(self) -> dict[str, Any]:
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        found = {} if self.retry_s is None else {"Retry-After": str(self.retry_s)}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def stopping_error() -> ApiError:
    return ApiError(503, "the server is stopping; ask again when it is back", retry_s=_RETRY_S)


def late_error() -> ApiError:
    reason = "the time limit passed before the answer began; ask again later"
    return ApiError(503, reason, code="timeout", retry_s=_RETRY_S)


@dataclass(frozen=True)
class Report:
    """What is known about an answer when it has ended. late: the time limit ended it.

    cached_tokens: of the prompt, read for an earlier answer.
    """

    written: Text
    late: bool = False
    cached_tokens: int = 0

    @property
    def finish(self) -> Finish:
        return "stop" if self.written.finished else "length"

    @property
    def usage(self) -> dict[str, Any]:
        prompt, completion = self.written.prompt_tokens, self.written.generated_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    @property
    def details(self) -> dict[str, Any]:
        """What OpenAI's API has no field for."""
        known = self.written.as_dict()
        del known["text"], known["prompt_tokens"], known["generated_tokens"]
        return known | {"time_limit": self.late}


@dataclass(frozen=True)
class Reply:
    """Writes one answer of `model` in the shape of a chat or of a plain completion, whole or as events.

    sources: the passages that the model was shown; None when it was to be shown none.
    """

    model: str
    chat: bool
    with_usage: bool = False
    sources: Sequence[Source] | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, report: Report) -> dict[str, Any]:
        content = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        kind = "chat.completion" if self.chat else "text_completion"
        more = {"usage": report.usage, "mlx_loopai": self._own(report)}
        return self._document(kind, [_choice(content, report.finish)], more)

    def opening(self) -> str:
        """The first event: whose turn it is. Plain completions have none."""
        return self._event({"delta": {"role": "assistant", "content": ""}}, None) if self.chat else ""

    def piece(self, text: str) -> str:
        return self._event({"delta": {"content": text}} if self.chat else {"text": text}, None)

    def ending(self, report: Report) -> str:
        """The last events: why it ended, what it took when that was asked for, and the mark of the end."""
        content: dict[str, Any] = {"delta": {}} if self.chat else {"text": ""}
        last = self._event(content, report.finish, {"mlx_loopai": self._own(report)})
        usage = self._chunk([], {"usage": report.usage}) if self.with_usage else ""
        return last + usage + DONE

    def failure(self, error: ApiError) -> str:
        """An error after the answer began: its status can no longer be changed."""
        return _data(error.body) + DONE

    def _own(self, report: Report) -> dict[str, Any]:
        cited = {} if self.sources is None else {"sources": [asdict(source) for source in self.sources]}
        return report.details | cited

    def _event(self, content: dict[str, Any], finish: Finish | None, more: dict[str, Any] | None = None) -> str:
        usage = {"usage": None} if self.with_usage else {}
        return self._chunk([_choice(content, finish)], usage | (more or {}))

    def _chunk(self, choices: list[dict[str, Any]], more: dict[str, Any]) -> str:
        return _data(self._document("chat.completion.chunk" if self.chat else "text_completion", choices, more))

    def _document(self, kind: str, choices: list[dict[str, Any]], more: dict[str, Any]) -> dict[str, Any]:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }


def _choice(content: dict[str, Any], finish: Finish | None) -> dict[str, Any]:
    return {"index": 0, **content, "logprobs": None, "finish_reason": finish}


def _data(document: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(document, ensure_ascii=False, allow_nan=False)}\n\n"
