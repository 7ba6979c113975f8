"""A judge's endpoint on this machine, which answers as a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mlx_loopai.evaluation.rubric import NAMES


@dataclass(frozen=True)
class Reply:
    """`body`: sent as it is when it is bytes, else as the content of a chat completion. `status` 0: hang up."""

    body: str | bytes = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def sent(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return json.dumps({"choices": [{"message": {"role": "assistant", "content": self.body}}]}).encode()


@dataclass
class Served:
    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


def choice(value: str, **others: str) -> str:
    """A judge's whole answer with one choice for every criterion."""
    return json.dumps({**dict.fromkeys(NAMES, value), **others, "reason": "이유"}, ensure_ascii=False)


@contextmanager
def judge_server(reply: Callable[[dict[str, Any], int], Reply]) -> Iterator[Served]:
    """`reply(request body, number from 0)` decides each answer."""
    served = Served("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            served.requests.append(body)
            served.keys.append(self.headers["Authorization"])
            found = reply(body, len(served.requests) - 1)
            if not found.status:
                self.close_connection = True
                return
            self.send_response(found.status)
            for name, value in {"Content-Length": str(len(found.sent)), **found.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(found.sent)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
