"""One answer between the event loop and the writer's thread: its place among the others, its events, its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from mlx_loopai.generation.grammar import Grammar
from mlx_loopai.generation.prompts import Source
from mlx_loopai.serving.request_body import Asked
from mlx_loopai.serving.shapes import ApiError, Reply, Report
from mlx_loopai.serving.writer import Event, Task, Writer

T = TypeVar("T")


class Slots:
    """Counts the requests that are being answered, so that more than `limit` are turned away at once."""

    def __init__(self, limit: int) -> None:
        self._limit, self.taken = limit, 0

    def take(self) -> None:
        """Raises: ApiError 429 when all are taken."""
        if self.taken >= self._limit:
            raise ApiError(429, "all places are taken; ask again in a moment", code="rate_limit_exceeded", retry_s=1)
        self.taken += 1

    def free(self) -> None:
        self.taken -= 1


@dataclass(frozen=True)
class Prepared:
    """A request that is ready for the writer. asked: with a limit that fits. sources: see `Reply`."""

    asked: Asked
    prompt: list[int]
    sources: Sequence[Source] | None
    grammar: Grammar | None = None


class Answering:
    """An answer that was ordered from the writer. `close` it in any case: that frees the writer's place."""

    def __init__(self, writer: Writer, prepared: Prepared, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        self._writer = writer
        self._events: asyncio.Queue[Event] = asyncio.Queue()

        def deliver(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed: the client is gone
                loop.call_soon_threadsafe(self._events.put_nowait, event)

        self._task = Task(
            model=prepared.asked.model,
            prompt=tuple(prepared.prompt),
            options=prepared.asked.options,
            goes_on=bool(prepared.asked.begun),
            grammar=prepared.grammar,
            deadline=deadline,
            deliver=deliver,
        )
        writer.submit(self._task)

    async def next(self) -> str | Report:
        """The next text, or the report after which nothing follows. Raises: ApiError when it cannot be written."""
        event = await self._events.get()
        if isinstance(event, ApiError):
            raise event
        return event

    async def whole(self) -> tuple[str, Report]:
        texts: list[str] = []
        while isinstance(event := await self.next(), str):
            texts.append(event)
        return "".join(texts), event

    def close(self) -> None:
        self._writer.cancel(self._task)


async def events(
    answering: Answering, first: str | Report, reply: Reply, on_end: Callable[[Report], None]
) -> AsyncIterator[str]:
    """The answer as server-sent events; `first` was read from it already."""
    yield reply.opening()
    event = first
    try:
        while isinstance(event, str):
            yield reply.piece(event)
            event = await answering.next()
    except ApiError as error:
        yield reply.failure(error)
        return
    on_end(event)
    yield reply.ending(event)


class EventStream(StreamingResponse):
    """A stream of events; `closing` is called however it ends, also when it never began."""

    def __init__(self, content: AsyncIterator[str], closing: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(content, headers=headers, media_type="text/event-stream")
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._closing()


class GoneError(Exception):
    """The client has closed the connection."""


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, given up when the client goes. Its body must have been read. Raises: GoneError."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise GoneError
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
