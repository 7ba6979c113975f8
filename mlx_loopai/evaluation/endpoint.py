"""A chat model behind an OpenAI-compatible endpoint: hosted, or `mlx-loopai serve` on this machine."""

from __future__ import annotations

import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.language import tr

KEY_VARIABLE = "MLX_LOOPAI_JUDGE_KEY"
TRIES = 5
_LOCAL = ("localhost", "127.0.0.1", "::1")
_MAX_ANSWER_TOKENS = 1024
_MAX_ANSWER_BYTES = 4 << 20
_LONGEST_WAIT_S = 60.0


class _Busy(Exception):
    """The server may answer if asked again; `wait_s`: after how long, if it said so."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, since it would send texts and key to a server that the user did not name."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class Endpoint:
    """`url`: the API's base, such as http://127.0.0.1:8080/v1. `key`: sent as a bearer token unless empty.

    fields: what every request holds besides, such as a `response_format`.
    """

    url: str
    model: str
    key: str = ""
    timeout_s: float = 120.0
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(
                tr("`judge_url` {url}: no http address; give such as http://127.0.0.1:8080/v1", url=self.url)
            )
        if self.key and parts.scheme == "http" and parts.hostname not in _LOCAL:
            raise InputError(
                tr(
                    "`judge_url` {url}: the key in {key_variable} would travel unencrypted; use https",
                    url=self.url,
                    key_variable=KEY_VARIABLE,
                )
            )

    def chat(self, messages: Sequence[Mapping[str, str]], sleep: Callable[[float], None] = time.sleep) -> str:
        """The model's greedy answer. A busy, failing or silent server is asked up to `TRIES` times.

        Raises: InputError when the server refuses the request (key, model, path), LoopaiError when it stays silent.
        """
        settings = {"temperature": 0, "max_tokens": _MAX_ANSWER_TOKENS, **self.fields}
        body = {"model": self.model, "messages": list(messages), **settings}
        for number in range(1, TRIES + 1):
            try:
                return _content(self._post(body))
            except _Busy as error:
                if number == TRIES:
                    raise LoopaiError(
                        tr("{url}: no answer after {tries} tries: {error}", url=self.url, tries=TRIES, error=error)
                    ) from None
                wait_s = 2.0 ** (number - 1) if error.wait_s is None else error.wait_s
                sleep(min(wait_s, _LONGEST_WAIT_S))
        raise AssertionError("unreachable")

    def _post(self, body: Mapping[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        address = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        try:
            with urllib.request.build_opener(_NoRedirects).open(request, timeout=self.timeout_s) as answer:
                return bytes(answer.read(_MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                said = f"HTTP {error.code}: {error.read(300).decode(errors='replace').strip() or error.reason}"
                if error.code in (408, 409, 429) or error.code >= 500:
                    raise _Busy(said, _seconds(error.headers.get("Retry-After"))) from None
            raise InputError(
                tr(
                    "{address}: {said}; check `judge_url`, `judge_model` and {key_variable}",
                    address=address,
                    said=said,
                    key_variable=KEY_VARIABLE,
                )
            ) from None
        # URLError, a closed or silent connection, and half an HTTP answer
        except (OSError, urllib.error.URLError, ValueError) as error:
            raise _Busy(str(getattr(error, "reason", error)) or type(error).__name__) from None


def _content(answer: bytes) -> str:
    try:
        content = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise _Busy(f"not a chat completion: {answer[:200].decode(errors='replace')}") from None
    return content if isinstance(content, str) else ""


def _seconds(header: str | None) -> float | None:
    """Seconds to wait, from a Retry-After header; None for an HTTP date or anything else."""
    try:
        found = float(header or "")
    except ValueError:
        return None
    return found if math.isfinite(found) and found >= 0 else None
