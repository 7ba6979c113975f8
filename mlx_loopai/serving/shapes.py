"""Answers and errors in the shapes of OpenAI's API, so that its clients read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mlx_loopai.errors import LoopaiError
from mlx_loopai.generation.answer_stream import Text
from mlx_loopai.language import tr

Finish = Literal["stop", "length", "content_filter"]
_RETRY_S = 5


class ApiError(LoopaiError):
    """An error with which a request is answered. `param` names the field at fault."""

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
    return ApiError(503, tr("the server is stopping; ask again when it is back"), retry_s=_RETRY_S)


def late_error() -> ApiError:
    reason = "the time limit passed before the answer began; ask again later"
    return ApiError(503, reason, code="timeout", retry_s=_RETRY_S)


@dataclass(frozen=True)
class Report:
    """The result of an answer. late: the time limit ended it.

    cached_tokens: tokens of the prompt that were not read for this answer alone: an earlier answer, or all that began
    with it, had them too.
    """

    written: Text
    late: bool = False
    cached_tokens: int = 0

    @property
    def finish(self) -> Finish:
        """Why the answer ended; `content_filter` if the filter removed all of a complete answer."""
        if not self.written.finished:
            return "length"
        return "content_filter" if self.written.removed and not self.written.text.strip() else "stop"

    @property
    def details(self) -> dict[str, Any]:
        """Figures for which OpenAI's API has no field."""
        known = self.written.as_dict()
        del known["text"], known["prompt_tokens"], known["generated_tokens"]
        return known | {"time_limit": self.late}
