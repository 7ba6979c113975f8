"""Access control of the server: which host names and origins are answered, and the API key."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Collection
from socket import gethostname
from typing import Literal
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_loopai.language import tr
from mlx_loopai.serving.shapes import ApiError

# The host names that a server answers to: those of the loopback address, this machine's own, or any.
Names = Literal["loopback", "own", "any"]
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?", re.I)
_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"}


def refusal(headers: Headers, names: Names, origins: Collection[str]) -> ApiError | None:
    """The error for a request that must be refused, or None.

    A page of another site may point its own name at this machine (DNS rebinding), so only `names` are answered. A
    request that a page of another origin sends is refused unless that origin, or `*`, is allowed.
    """
    host = headers.get("host", "")
    if names == "loopback" and not _LOOPBACK.fullmatch(host):
        return ApiError(
            403,
            tr("host {host!r}: this server answers on the loopback address only", host=host[:80]),
            code="wrong_host",
        )
    if names == "own" and not _is_own(host):
        reason = f"host {host[:80]!r}: without a key this server answers to its addresses and to {gethostname()} only"
        return ApiError(403, reason, code="wrong_host")
    origin = headers.get("origin")
    if origin is None or origin in origins or "*" in origins or _netloc(origin) == host.lower():
        return None
    return ApiError(
        403,
        tr("origin {origin!r}: not one that this server was started to let in (allowed origins)", origin=origin[:80]),
        code="wrong_origin",
    )


def _is_own(host: str) -> bool:
    """Whether a Host header is an IP address, which DNS cannot redirect, or this machine's own name."""
    name = _netloc_name(host)
    own = gethostname().lower().removesuffix(".local")
    if name in ("localhost", own, f"{own}.local"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _netloc_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def check_key(request: Request, key: str | None) -> None:
    """Raises: ApiError 401 when the server has a key and the request does not carry it."""
    given = request.headers.get("authorization", "")
    if key is not None and not hmac.compare_digest(given.encode("latin-1"), f"Bearer {key}".encode()):
        raise ApiError(401, tr("wrong or missing key; send Authorization: Bearer KEY"), code="invalid_api_key")


class Guard:
    """Middleware that answers requests which `refusal` refuses, and adds security headers to all responses."""

    def __init__(self, app: ASGIApp, names: Names, origins: Collection[str]) -> None:
        self._app, self._names, self._origins = app, names, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        error = refusal(Headers(scope=scope), self._names, self._origins)
        answer = self._app if error is None else JSONResponse(error.body, error.status)
        await answer(scope, receive, send_with_headers)
