"""`mlx-loopai serve`: the model behind OpenAI's API, and a page to try it."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.generation_options import adapter_when_option, generation_flags, read_flags
from mlx_loopai.cli.listening import listen, require_stack
from mlx_loopai.cli.model_options import adapters_option, chosen_model, model_option
from mlx_loopai.cli.output import emit, json_option, keep_awake, quiet_option, waiting
from mlx_loopai.cli.rag import rag_top_option
from mlx_loopai.cli.wording import one_line
from mlx_loopai.errors import InputError, Interrupted
from mlx_loopai.language import later, tr
from mlx_loopai.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from mlx_loopai.config import GenerationOptions
    from mlx_loopai.generation.lineup import Lineup
    from mlx_loopai.generation.session import AdapterWhen
    from mlx_loopai.memory.serving import ServingPlan
    from mlx_loopai.models.embedder import Embedder
    from mlx_loopai.retrieval.index import Hit
    from mlx_loopai.serving.app import ServeOptions

KEY_VARIABLE = "MLX_LOOPAI_API_KEY"
_GRACE_S = 10
# Additional seconds in which clients whose answers are not finished get an error.
_ENDING_S = 2
_BACKLOG = 128
# Connections besides those of answers: for the page, for /health, and for refusals.
_SPARE_CONNECTIONS = 64
# How the terms of a server's memory are called.
_TERMS = {
    "weights": later("weights"),
    "conversations": later("conversations at once"),
    "prompt_cache": later("prompt cache"),
    "python": later("python"),
}


@click.command("serve", short_help="Answer over HTTP: OpenAI's API, and a page to try it.")
@model_option
@adapters_option
@adapter_when_option
@click.option("--system", help="System prompt of requests that have none. [default: the adapter's own, if any]")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0: all addresses of this machine.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port to listen on; 0: any free one."
)
@generation_flags("seed", "stop")
@click.option(
    "--rag",
    type=click.Path(path_type=Path),
    help="Index of `rag build`: its best passages, found by words, are shown with a chat's last request and cited.",
)
@rag_top_option
@click.option(
    "--embedder",
    metavar="MODEL",
    help="Model of /v1/embeddings, as `rag build` takes it: an encoder, or a decoder such as Qwen3-Embedding.",
)
@click.option(
    "--context", type=click.IntRange(2), help="Tokens of prompt and answer.  [default: the model's, at most 8192]"
)
@click.option("--concurrent", type=click.IntRange(1), default=8, show_default=True, help="Answers written at once.")
@click.option(
    "--queue",
    type=click.IntRange(0),
    default=32,
    show_default=True,
    help="Requests that may wait; further ones get 429.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(0, min_open=True),
    default=300,
    show_default=True,
    help="Most seconds that a request may take.",
)
@click.option(
    "--max-body", type=click.IntRange(1), default=1 << 20, show_default=True, help="The largest request, in bytes."
)
@click.option(
    "--prompt-cache",
    default="512MiB",
    show_default=True,
    metavar="SIZE|off",
    help="Memory for what was read of the last chats, so that their next turns read only what is new.",
)
@click.option(
    "--draft-model",
    metavar="MODEL",
    help="A smaller model of the same vocabulary that proposes tokens for an answer that is written alone.",
)
@click.option(
    "--allow-origin",
    multiple=True,
    help="Origin whose pages may send requests, such as https://my.site (repeatable; *: any).",
)
@click.option(
    "--feedback",
    type=click.Path(path_type=Path),
    help="Append what is judged on the page, or sent to /v1/feedback, to this file (JSONL), for `train`.",
)
@json_option
@quiet_option
def command(
    model: str | None,
    adapter: tuple[Path, ...],
    adapter_when: AdapterWhen,
    system: str | None,
    host: str,
    port: int,
    rag: Path | None,
    rag_top: int,
    embedder: str | None,
    context: int | None,
    concurrent: int,
    queue: int,
    time_limit: float,
    max_body: int,
    prompt_cache: str,
    draft_model: str | None,
    allow_origin: tuple[str, ...],
    feedback: Path | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Serve /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models, /health, and a page at /.

    The options of sampling, scripts and cleaning are defaults: a request may set its own. No answer is longer than
    --max-tokens. A request chooses by `model`: the base under its own name, an adapter as BASE:ADAPTER. The environment
    variable MLX_LOOPAI_API_KEY, when it is set, holds the key that requests must carry. Beside OpenAI's fields a
    request may have adapter_when, scripts, code_fences, filter, top_k, min_p, repetition_penalty and repetition_guard.
    After Ctrl-C or SIGTERM the answers that are being written may end, for at most 10 seconds. --json prints one
    document with the address when the server is ready.
    """
    generation, cache_bytes, key = _checked(options), _cache_bytes(prompt_cache), _api_key()
    require_stack()
    from mlx_loopai.generation.lineup import open_lineup
    from mlx_loopai.serving.app import ServeOptions
    from mlx_loopai.serving.request_body import Defaults

    model = chosen_model(model, adapter[0] if adapter else None, quiet)
    with listen(host, port) as listening, _retriever(rag, rag_top) as retrieve:
        with waiting(tr("loading {model}", model=model), quiet):
            embeds = _opened(embedder)
            lineup = open_lineup(model, _called(model), adapter, system, adapter_when, draft_model)
        serving = ServeOptions(
            defaults=Defaults(lineup.names, generation, choices=concurrent, switched=tuple(lineup.switches)),
            context_tokens=lineup.sessions[lineup.base].context(context),
            concurrent=concurrent,
            queue=queue,
            time_limit_s=time_limit,
            max_body_bytes=max_body,
            cache_bytes=cache_bytes,
            retrieve=retrieve,
            loopback=ipaddress.ip_address(listening.getsockname()[0]).is_loopback,
            origins=allow_origin,
            api_key=key,
            feedback=feedback,
            embedder=embeds,
        )
        _announce(listening, host, serving, _memory(lineup, serving, quiet), as_json)
        _run(lineup, serving, listening, quiet)


@contextmanager
def _retriever(rag: Path | None, top: int) -> Iterator[Callable[[str], Sequence[Hit]] | None]:
    """The function that finds an index's passages: by words only, as MLX belongs to the thread that writes answers."""
    if rag is None:
        yield None
        return
    from mlx_loopai.retrieval.index import open_index

    with open_index(rag, by_meaning=False) as index:
        yield lambda query: index.search(query, top)


def _cache_bytes(size: str) -> int:
    return 0 if size == "off" else parse_bytes(size, "`prompt_cache`")


def _api_key() -> str | None:
    key = os.environ.get(KEY_VARIABLE)
    if key is not None and not key.strip():
        raise InputError(
            tr(
                "{key_variable} is set but empty, so nobody could get in; set a key, or unset it",
                key_variable=KEY_VARIABLE,
            )
        )
    return key


def _checked(options: dict[str, Any]) -> GenerationOptions:
    """Take the options of generation out of `options`, before a model is loaded. Raises: InputError."""
    from mlx_loopai.text.alphabet import Scripts

    generation = read_flags(options)
    Scripts.parse(generation.scripts)
    return generation


def _opened(embedder: str | None) -> tuple[str, Embedder] | None:
    """(the name that clients use, the embedder of /v1/embeddings). Raises: InputError."""
    if embedder is None:
        return None
    from mlx_loopai.models.embedder import open_embedder

    return _called(embedder), open_embedder(embedder)


def _called(model: str) -> str:
    """The name that clients use for the base: nano, a hub id or a folder's name."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def _memory(lineup: Lineup, options: ServeOptions, quiet: bool) -> ServingPlan:
    """What the server needs at most, told in a line; with `quiet` only where it is too much."""
    from mlx_loopai.memory.machine import this_machine
    from mlx_loopai.memory.serving import Served, plan_serving
    from mlx_loopai.models.load import default_dtype

    longest = options.defaults.options.max_tokens
    served = Served(
        weight_bytes=lineup.weight_bytes + (options.embedder[1].weight_bytes if options.embedder else 0),
        compute=default_dtype(),
        rows=options.concurrent,
        context_tokens=options.context_tokens,
        answer_tokens=longest,
        cache_bytes=options.cache_bytes,
    )
    memory = plan_serving(lineup.loaded.shape, this_machine(), served)
    terms = ", ".join(f"{tr(_TERMS[name])} {format_bytes(size)}" for name, size in memory.terms.items())
    total, budget = format_bytes(memory.total_bytes), format_bytes(memory.budget_bytes)
    if not memory.fits:
        line = tr(
            "note: memory: up to {total} ({terms}), but {budget} are safe on this machine; lower --context, "
            "--concurrent or --prompt-cache",
            total=total,
            terms=terms,
            budget=budget,
        )
        click.echo(line, err=True)
    elif not quiet:
        line = tr("memory: up to {total} ({terms}) of {budget}", total=total, terms=terms, budget=budget)
        click.echo(line, err=True)
    return memory


def _announce(listening: socket.socket, host: str, options: ServeOptions, memory: ServingPlan, as_json: bool) -> None:
    listening.listen(_BACKLOG)
    port = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}"
    document = {
        "url": url,
        "model": options.defaults.model,
        "models": options.defaults.models,
        "scripts": options.defaults.options.scripts,
        "context_tokens": options.context_tokens,
        "key": options.api_key is not None,
        "memory": {
            "fits": memory.fits,
            "budget_bytes": memory.budget_bytes,
            "total_bytes": memory.total_bytes,
            "terms": memory.terms,
        },
    }
    emit(
        document, as_json, tr("{model}: {url} (API: {url}/v1); Ctrl-C stops it", model=options.defaults.model, url=url)
    )
    sys.stdout.flush()
    # A warning about who else can use the model is printed even with --quiet.
    if "*" in options.origins and options.api_key is None:
        click.echo(
            tr(
                "note: pages of every site can use the model; set {key_variable} to require a key",
                key_variable=KEY_VARIABLE,
            ),
            err=True,
        )
    if not options.loopback and options.api_key is None:
        click.echo(
            tr(
                "note: anybody who reaches {host} can use the model; set {key_variable} to require a key",
                host=host,
                key_variable=KEY_VARIABLE,
            ),
            err=True,
        )


class _Ended(SystemExit):
    """Raised after SIGTERM, when the server has shut down properly."""


def _end(*_: object) -> None:
    raise _Ended(0)


def _run(lineup: Lineup, options: ServeOptions, listening: socket.socket, quiet: bool) -> None:
    import uvicorn

    from mlx_loopai.serving.app import build_app
    from mlx_loopai.serving.connection import PatientProtocol

    def log(line: str) -> None:
        if not quiet:
            click.echo(one_line(line), err=True)  # a path that a client chose may hold escape sequences

    app = build_app(lineup, options, log)

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # After its grace period uvicorn breaks connections off; before that, clients get an error.
            asyncio.get_running_loop().call_later(_GRACE_S, app.state.stop)
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        ws="none",
        http=PatientProtocol,
        lifespan="on",
        limit_concurrency=options.concurrent + options.queue + _SPARE_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE_S + _ENDING_S,
    )
    # uvicorn shuts down properly and then raises the signal again, which must not count as a failure.
    signal.signal(signal.SIGTERM, _end)
    try:
        with keep_awake():
            Server(config).run(sockets=[listening])
    except _Ended:
        sys.stdout.flush()
        sys.stderr.flush()
        # All is written. Where the interpreter takes MLX down while a thread of its own lives, the process aborts.
        os._exit(0)
    except KeyboardInterrupt:
        raise Interrupted(tr("stopped by Ctrl-C; all answers that were being written are finished")) from None
