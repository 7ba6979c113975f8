"""Carries an answer from the writer's thread to the event loop: its slot, its events, its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from mlx_loopai.data.images import Picture
from mlx_loopai.generation.grammar import Grammar
from mlx_loopai.generation.prompts import Source
from mlx_loopai.language import tr
from mlx_loopai.serving.reply import ChoiceStream, Reply, Told, closing, failure
from mlx_loopai.serving.request_body import Asked
from mlx_loopai.serving.shapes import ApiError, Report
from mlx_loopai.serving.writer import Event, Shown, Task, Writer

T = TypeVar("T")


class Slots:
    """Counts the answers in progress, so that requests beyond `limit` are refused at once."""

    def __init__(self, limit: int) -> None:
        self._limit, self.taken = limit, 0

    def take(self, places: int = 1) -> None:
        """Raises: ApiError 429 when fewer than `places` are free."""
        if self.taken + places > self._limit:
            raise ApiError(
                429, tr("all places are taken; ask again in a moment"), code="rate_limit_exceeded", retry_s=1
            )
        self.taken += places

    def free(self, places: int = 1) -> None:
        self.taken -= places


@dataclass(frozen=True)
class Prepared:
    """A request that is ready for the writer. asked: with `max_tokens` that fit the context. sources: see `Reply`.
    pictures: those that the prompt shows.
    """

    asked: Asked
    prompt: list[int]
    sources: Sequence[Source] | None
    grammar: Grammar | None = None
    pictures: Sequence[Picture] = ()


class Answering:
    """The choices of an answer that were submitted to the writer. Always call `close`, which frees their slots."""

    def __init__(self, writer: Writer, prepared: Prepared, deadline: float) -> None:
        self._writer = writer
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        asked = prepared.asked
        self._tasks = [
            Task(
                model=asked.model,
                prompt=tuple(prepared.prompt),
                options=asked.options,
                goes_on=bool(asked.begun),
                grammar=prepared.grammar,
                deadline=deadline,
                deliver=self._delivery(choice),
                row=choice,
                shared=asked.choices > 1,
                likeliest=asked.likeliest,
                pictures=tuple(prepared.pictures),
                adapter_when=asked.adapter_when,
            )
            for choice in range(asked.choices)
        ]
        for task in self._tasks:
            writer.submit(task)

    def _delivery(self, choice: int) -> Callable[[Event], None]:
        loop = asyncio.get_running_loop()

        def deliver(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed: the client is gone
                loop.call_soon_threadsafe(self._events.put_nowait, (choice, event))

        return deliver

    async def next(self) -> tuple[int, Shown | Report]:
        """(choice, its next event); a report ends a choice. Raises: ApiError when a choice cannot be written."""
        choice, event = await self._events.get()
        if isinstance(event, ApiError):
            raise event
        return choice, event

    async def whole(self) -> list[Told]:
        """All choices, in their order. Raises: ApiError as `next`."""
        shown: dict[int, list[Shown]] = {choice: [] for choice in range(len(self._tasks))}
        ended: dict[int, Told] = {}
        while len(ended) < len(self._tasks):
            choice, event = await self.next()
            if isinstance(event, Shown):
                shown[choice].append(event)
                continue
            text = "".join(one.text for one in shown[choice])
            chances = tuple(chance for one in shown[choice] for chance in one.chances)
            ended[choice] = Told(text, chances, event)
        return [ended[choice] for choice in range(len(self._tasks))]

    def close(self) -> None:
        for task in self._tasks:
            self._writer.cancel(task)


async def events(
    answering: Answering,
    first: tuple[int, Shown | Report],
    reply: Reply,
    on_end: Callable[[Sequence[Report]], None],
) -> AsyncIterator[str]:
    """The answer as server-sent events; `first` was read from it already."""
    streams = [ChoiceStream(reply, choice) for choice in range(reply.choices)]
    reports: dict[int, Report] = {}
    yield "".join(stream.opening() for stream in streams)
    choice, event = first
    try:
        while True:
            if isinstance(event, Shown):
                yield streams[choice].piece(event.text, event.chances)
            else:
                yield streams[choice].ending(event)
                reports[choice] = event
            if len(reports) == reply.choices:
                break
            choice, event = await answering.next()
    except ApiError as error:
        yield failure(error)
        return
    told = [reports[choice] for choice in range(reply.choices)]
    on_end(told)
    yield closing(reply, told)


class EventStream(StreamingResponse):
    """A stream of events; `closing` is called however it ends, even if it never began."""

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
    """The result of `work`, which is cancelled if the client disconnects. The request's body must have been read.

    Raises: GoneError.
    """
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
