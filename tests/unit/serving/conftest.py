"""A server on nano, on a free port of this machine, for as long as a module's tests run."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest

from mlx_loopai.config import GenerationOptions
from mlx_loopai.generation.lineup import Lineup
from mlx_loopai.generation.session import Session, open_session
from mlx_loopai.models.embedder import Embedder, Vectors
from mlx_loopai.models.load import load_tokenizer
from mlx_loopai.serving.request_body import Defaults

DEFAULTS = Defaults(("nano",), GenerationOptions(max_tokens=400))


@dataclass(frozen=True)
class Running:
    """A server that can be asked; `log` grows."""

    url: str
    log: list[str] = field(default_factory=list)

    def ask(self, content: str = "한국의 수도는?", *, timeout: float = 60, **fields: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 30} | fields
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=timeout)

    def health(self) -> dict[str, Any]:
        return httpx.get(f"{self.url}/health").json()

    def wait_until_free(self) -> None:
        """Until nothing is answered any more."""
        for _ in range(400):
            state = self.health()
            if state["answers"] == state["requests"] == 0:
                return
            time.sleep(0.05)
        raise AssertionError(f"still busy: {state}")


class _Counting(Embedder):
    def passages(self, texts: Sequence[str], on_done: Callable[[int], None] = lambda count: None) -> Vectors:
        if "깨짐" in texts:
            raise RuntimeError("broken")
        found = np.array([[text.count("가") + 1, text.count("나") + 1] for text in texts], np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def counting_embedder() -> Embedder:
    """Vectors that count two syllables of a text; a token is a character."""
    return _Counting("counts", "", 2, "", lambda text: [0] * len(text), lambda ids, lengths: ids, weight_bytes=0)


Serving = Callable[..., AbstractContextManager[Running]]


@pytest.fixture(scope="session")
def nano() -> Session:
    return open_session("nano", dtype="fp32")


@pytest.fixture(scope="session")
def endless(nano: Session) -> Session:
    """Nano with no end of text: its answers are as long as they may be."""
    tokenizer = load_tokenizer(nano.loaded.path)
    tokenizer._eos_token_ids = set()
    return dataclasses.replace(nano, loaded=dataclasses.replace(nano.loaded, tokenizer=tokenizer))


@pytest.fixture(scope="session")
def serving(nano: Session) -> Serving:
    """Starts a server with other options than the usual ones."""
    uvicorn = pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")
    from mlx_loopai.serving.app import ServeOptions, build_app
    from mlx_loopai.serving.connection import PatientProtocol

    @contextlib.contextmanager
    def start(
        session: Session = nano,
        lineup: Lineup | None = None,
        on_app: Callable[[Any], None] = lambda app: None,
        **options: Any,
    ) -> Iterator[Running]:
        listening = socket.create_server(("127.0.0.1", 0))
        running = Running(f"http://127.0.0.1:{listening.getsockname()[1]}")
        chosen = dataclasses.replace(ServeOptions(DEFAULTS, context_tokens=1024), **options)
        app = build_app(lineup or Lineup({"nano": session}, {}), chosen, running.log.append)
        on_app(app)
        config = uvicorn.Config(app, log_config=None, ws="none", http=PatientProtocol, timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield running
        finally:
            server.should_exit = True
            thread.join(20)
            listening.close()
            assert not thread.is_alive()

    return start


@pytest.fixture(scope="session")
def server(serving: Serving) -> Iterator[Running]:
    with serving() as running:
        yield running
