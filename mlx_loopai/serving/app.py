"""The server's routes: OpenAI's chat and text completions, embeddings, models, health, feedback, the writing page."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlx_loopai.data.feedback import append_feedback
from mlx_loopai.data.images import Picture
from mlx_loopai.errors import InputError
from mlx_loopai.generation.grammar import Grammar, schema_grammar
from mlx_loopai.generation.grounding import ground_all
from mlx_loopai.generation.lineup import Lineup
from mlx_loopai.generation.prompts import Prompt, Source
from mlx_loopai.generation.session import ContextOverflow, answer_room, fitted
from mlx_loopai.language import tr
from mlx_loopai.models.embedder import Embedder
from mlx_loopai.retrieval.index import Hit
from mlx_loopai.serving.access import Guard, Names, check_key
from mlx_loopai.serving.answering import Answering, EventStream, GoneError, Prepared, Slots, events, unless_gone
from mlx_loopai.serving.embedding import parse_vectors, vectors_document
from mlx_loopai.serving.feedback import feedback_row
from mlx_loopai.serving.logprobs import Spelling
from mlx_loopai.serving.page import page_response, page_settings
from mlx_loopai.serving.reply import Reply
from mlx_loopai.serving.request_body import Asked, Defaults, parse
from mlx_loopai.serving.shapes import ApiError, Report, late_error, stopping_error
from mlx_loopai.serving.tool_calls import CallForm
from mlx_loopai.serving.writer import Job, Writer
from mlx_loopai.units import MIB

S = TypeVar("S")
T = TypeVar("T")
_BODY_SECONDS = 30
_CLIENT_GONE = 499  # nobody reads it


@dataclass(frozen=True)
class ServeOptions:
    """How a server is run. `concurrent` answers are written at once; `queue` more may wait.

    retrieve: finds passages for the last request of a chat, which are put before it. loopback: whether it is bound to a
    loopback address. api_key: None: no key is needed. cache_bytes: of keys and values, kept from answer to answer; 0:
    none. feedback: the file to which /v1/feedback appends; None: there is no such route. embedder: (its name, the
    embedder) for /v1/embeddings; None: there is no such route.
    """

    defaults: Defaults
    context_tokens: int
    concurrent: int = 8
    queue: int = 32
    time_limit_s: float = 300.0
    max_body_bytes: int = 1 << 20
    # For a model that reads pictures: room for some photographs in base64.
    max_picture_body_bytes: int = 32 << 20
    cache_bytes: int = 512 * MIB
    retrieve: Callable[[str], Sequence[Hit]] | None = None
    loopback: bool = True
    origins: tuple[str, ...] = ()
    api_key: str | None = field(default=None, repr=False)
    feedback: Path | None = None
    embedder: tuple[str, Embedder] | None = None

    @property
    def names(self) -> Names:
        """The host names to answer to. With a key any will do, such as a proxy's: another site's page has no key."""
        if self.loopback:
            return "loopback"
        return "own" if self.api_key is None else "any"


def build_app(lineup: Lineup, options: ServeOptions, log: Callable[[str], None]) -> Starlette:
    """The application; its writer starts and ends with it. `log` gets one line per request, without its contents.

    `app.state.stop()` ends the answers in progress, each with an error that its client can read.
    """
    api = _Api(lineup, options, log)
    routes = [
        Route("/", api.page),
        Route("/page/settings", api.page_settings),
        Route("/health", api.health),
        Route("/v1/models", api.models),
        Route("/v1/models/{name:path}", api.model),
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/v1/completions", api.text, methods=["POST"]),
        Route("/v1/embeddings", api.embeddings, methods=["POST"]),
    ]
    if options.feedback is not None:
        routes.append(Route("/v1/feedback", api.feedback, methods=["POST"]))
    middleware = [Middleware(Guard, names=options.names, origins=options.origins)]
    if options.origins:
        headers = ["Authorization", "Content-Type"]
        middleware.append(
            Middleware(
                CORSMiddleware, allow_origins=options.origins, allow_methods=["GET", "POST"], allow_headers=headers
            )
        )
    app = Starlette(
        routes=routes, middleware=middleware, exception_handlers={HTTPException: _http_error}, lifespan=api.lifespan
    )
    app.state.stop = api.stop
    return app


def _error(error: ApiError) -> Response:
    return JSONResponse(error.body, error.status, error.headers)


async def _http_error(_: Request, error: Exception) -> Response:
    """The router's own errors, such as 404 and 405, in the shape of the API."""
    assert isinstance(error, HTTPException)
    response = _error(
        ApiError(error.status_code, tr("{detail}; see /v1/models and /v1/chat/completions", detail=error.detail))
    )
    response.headers.update(error.headers or {})
    return response


class _Api:
    def __init__(self, lineup: Lineup, options: ServeOptions, log: Callable[[str], None]) -> None:
        self._lineup, self._options, self._log = lineup, options, log
        self._slots = Slots(options.concurrent + options.queue)
        self._writer = Writer(
            lineup, options.concurrent, options.cache_bytes, lambda reason: log(f"writing failed: {reason}")
        )
        # Tokenising a long prompt takes a while; neither the event loop nor the writer may wait for it.
        self._encoder = ThreadPoolExecutor(1, "encoder")
        self._spelling = Spelling(lineup.loaded)
        self._created = int(time.time())
        self._stopping = False

    def stop(self) -> None:
        """End all answers now, each with an error that its client can read, and accept no more."""
        self._stopping = True
        self._writer.stop()
        self._encoder.shutdown(wait=False, cancel_futures=True)

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._writer.start()
        try:
            yield
        finally:
            self._writer.close()
            self._encoder.shutdown(cancel_futures=True)

    async def page(self, _: Request) -> Response:
        return page_response()

    async def page_settings(self, _: Request) -> Response:
        options, feedback = self._options.defaults.options, self._options.feedback is not None
        return JSONResponse(page_settings(self._lineup, options, feedback))

    async def health(self, _: Request) -> Response:
        alive = self._writer.alive
        state = {
            "status": "ok" if alive else "failed",
            "model": self._options.defaults.model,
            "answers": len(self._writer),
            "requests": self._slots.taken,
        }
        return JSONResponse(state, 200 if alive else 503)

    async def models(self, request: Request) -> Response:
        return await self._guarded(request, self._list_models)

    async def model(self, request: Request) -> Response:
        return await self._guarded(request, self._one_model)

    async def chat(self, request: Request) -> Response:
        return await self._guarded(request, lambda request: self._complete(request, chat=True))

    async def text(self, request: Request) -> Response:
        return await self._guarded(request, lambda request: self._complete(request, chat=False))

    async def embeddings(self, request: Request) -> Response:
        return await self._guarded(request, self._embed)

    async def feedback(self, request: Request) -> Response:
        return await self._guarded(request, self._keep_feedback)

    async def _guarded(self, request: Request, work: Callable[[Request], Awaitable[Response]]) -> Response:
        """The response of `work`; every error in the shape of the API."""
        try:
            check_key(request, self._options.api_key)
            return await work(request)
        except ApiError as error:
            self._log(f"{request.method} {request.url.path} {error.status}")
            return _error(error)
        except (GoneError, ClientDisconnect):
            self._log(f"{request.method} {request.url.path} the client left")
            return Response(status_code=_CLIENT_GONE)
        except Exception as error:  # only the log tells the reason, never the client
            self._log(f"{request.method} {request.url.path} 500 {type(error).__name__}: {error}")
            return _error(ApiError(500, tr("the server failed; its log says why")))

    async def _list_models(self, _: Request) -> Response:
        embedder = [self._options.embedder[0]] if self._options.embedder else []
        cards = [self._model_card(name) for name in (*self._options.defaults.models, *embedder)]
        return JSONResponse({"object": "list", "data": cards})

    async def _one_model(self, request: Request) -> Response:
        return JSONResponse(self._model_card(self._options.defaults.chosen(request.path_params["name"])))

    def _model_card(self, name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "mlx-loopai"}

    async def _complete(self, request: Request, chat: bool) -> Response:
        asked = parse(await self._body(request), chat, self._options.defaults)
        self._slots.take(asked.choices)
        deadline = time.monotonic() + self._options.time_limit_s
        answering: Answering | None = None

        def close() -> None:
            self._slots.free(asked.choices)
            if answering is not None:
                answering.close()

        def on_end(reports: Sequence[Report]) -> None:
            self._done(request, reports)

        streaming = False
        try:
            prepared = await unless_gone(request, self._prepared(asked))
            reply = Reply(
                model=asked.model,
                chat=chat,
                choices=asked.choices,
                with_usage=asked.with_usage,
                spelling=None if asked.likeliest is None else self._spelling,
                calls=CallForm.of(self._lineup.loaded.tokenizer, asked.tools),
                sources=prepared.sources,
            )
            answering = Answering(self._writer, prepared, deadline)
            if not asked.stream:
                told = await unless_gone(request, answering.whole())
                on_end([one.report for one in told])
                return JSONResponse(reply.whole(told))
            # A stream's status is sent before its text, so errors before the first text can still have their own.
            first = await unless_gone(request, answering.next())
            streaming = True
            return EventStream(events(answering, first, reply, on_end), close)
        finally:
            if not streaming:
                close()

    async def _embed(self, request: Request) -> Response:
        if self._options.embedder is None:
            raise ApiError(404, tr("this server was started without an embedder, so it embeds no texts"))
        name, embedder = self._options.embedder
        asked = parse_vectors(await self._body(request), embedder, name)
        self._slots.take()
        try:
            slabs = [await unless_gone(request, self._in_writer(embedder.passages, slab)) for slab in asked.slabs]
        finally:
            self._slots.free()
        n_tokens = sum(len(embedder.encode(text)) for text in asked.texts)
        self._log(f"{request.method} {request.url.path} 200, {n_tokens} tokens")
        return JSONResponse(vectors_document(asked, [one for slab in slabs for one in slab], name, n_tokens))

    async def _in_writer(self, work: Callable[[S], T], value: S) -> T:
        """`work(value)` in the thread that owns MLX. Raises: ApiError."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[T | ApiError] = loop.create_future()

        def settle(result: T | ApiError) -> None:
            if not found.done():
                found.set_result(result)

        def deliver(result: T | ApiError) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, result)

        self._writer.call(Job(lambda: work(value), deliver))
        result = await found
        if isinstance(result, ApiError):
            raise result
        return result

    async def _keep_feedback(self, request: Request) -> Response:
        row = feedback_row(await self._body(request), self._options.defaults.model)
        assert self._options.feedback is not None
        loop = asyncio.get_running_loop()
        added = await loop.run_in_executor(self._encoder, append_feedback, self._options.feedback, [row])
        self._log(f"{request.method} {request.url.path} 200")
        return JSONResponse({"object": "feedback", "added": added})

    def _done(self, request: Request, reports: Sequence[Report]) -> None:
        written = [report.written for report in reports]
        taken = f"{written[0].prompt_tokens} + {sum(one.generated_tokens for one in written)} tokens"
        speed = sum(one.tokens_per_s for one in written)
        self._log(f"{request.method} {request.url.path} 200, {taken}, {speed:.1f} tokens/s")

    async def _body(self, request: Request) -> bytes:
        """The body, as long as it is small enough and comes soon enough. Raises: ApiError."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            # For security: a browser asks for permission before it sends this type to another site.
            raise ApiError(415, tr("content type {kind!r}: send Content-Type: application/json", kind=kind[:80]))
        limit, body = self._options.max_body_bytes, bytearray()
        if self._lineup.loaded.vision is not None:
            limit = max(limit, self._options.max_picture_body_bytes)
        too_large = ApiError(413, tr("the body has more than {limit} bytes; send less", limit=limit))
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared[:18]) > limit:
            raise too_large
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limit:
                        raise too_large
        except TimeoutError:
            raise ApiError(408, tr("the body did not arrive within {seconds} s", seconds=_BODY_SECONDS)) from None
        return bytes(body)

    async def _prepared(self, asked: Asked) -> Prepared:
        """The request with a limit that fits, its tokens, sources and form. Raises: ApiError 400, or 503 when late."""
        context = self._options.context_tokens
        try:
            if not isinstance(asked.prompt, str):
                # Each turn has at least one token, so a very long chat can be refused without tokenising it.
                fitted(asked.options, len(asked.prompt), context)
            prompt, sources, pictures = await self._in_encoder(self._encode, asked, "messages")
            if not prompt:
                raise ApiError(400, tr("the prompt is empty: it has no tokens"), "prompt")
            options = fitted(asked.options, len(prompt), context)
        except ContextOverflow as error:
            raise ApiError(400, str(error), "messages", "context_length_exceeded") from None
        grammar = None
        if asked.schema is not None:
            grammar = await self._in_encoder(self._form, asked.schema, "response_format")
        return Prepared(
            dataclasses.replace(asked, options=options), prompt, sources=sources, grammar=grammar, pictures=pictures
        )

    async def _in_encoder(self, work: Callable[[S], T], value: S, field: str) -> T:
        """`work(value)` in the encoder's thread; input errors are of `field`. Raises: ApiError."""
        if self._stopping:
            raise stopping_error()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._options.time_limit_s):
                return await loop.run_in_executor(self._encoder, work, value)
        except InputError as error:
            raise ApiError(400, str(error), field) from None
        except TimeoutError:
            raise late_error() from None
        except asyncio.CancelledError:
            if self._stopping:
                raise stopping_error() from None
            raise

    def _form(self, schema: Mapping[str, Any]) -> Grammar:
        return schema_grammar(self._lineup.loaded, dict(schema), "`response_format`")

    def _encode(self, asked: Asked) -> tuple[list[int], Sequence[Source] | None, Sequence[Picture]]:
        session = self._lineup.sessions[asked.model]
        if isinstance(asked.prompt, str):
            return list(session.loaded.tokenizer.encode(asked.prompt)), None, ()
        speaks = any(turn.role == "tool" or turn.tool_calls for turn in asked.prompt)
        if speaks and not asked.tools:
            # Without `tools` the template would leave the calls out, and the answer would miss them.
            raise InputError(tr("calls and their results: give the functions as `tools`"))
        prompt, context = Prompt(asked.prompt, "messages", tools=asked.tools), self._options.context_tokens
        if self._options.retrieve is None:
            ids = session.prompt_ids(prompt, options=asked.options, begun=asked.begun)
            return ids, None, session.pictures(prompt)
        # A token is at least a byte.
        budget = context - answer_room(asked.options, context) - len(asked.begun.encode())
        [prompt] = ground_all([prompt], self._options.retrieve, session, (), budget)
        ids = session.prompt_ids(prompt, options=asked.options, begun=asked.begun)
        return ids, prompt.sources, session.pictures(prompt)
