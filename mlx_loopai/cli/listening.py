"""For commands that serve a page: checks the web packages, opens a port, and runs a server in the background."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlx_loopai.errors import InputError, install_command
from mlx_loopai.language import tr

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def require_stack() -> None:
    """Raises: InputError when the web packages are not installed."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(
            tr("{name} is not installed; {install}", name=error.name, install=install_command("serve"))
        ) from None


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises: InputError when the address or the port cannot be used."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except OSError:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            tr(
                "--host {host} --port {port}: {reason}; give another address or port (0: any free)",
                host=host,
                port=port,
                reason=reason,
            )
        ) from None
    return listening


@contextmanager
def served(app: ASGIApp, listening: socket.socket) -> Iterator[str]:
    """Serve `app` on a loopback socket in a thread of its own while the block runs. Yields: its address."""
    import uvicorn

    config = uvicorn.Config(
        app, log_config=None, log_level="critical", access_log=False, server_header=False, ws="none", lifespan="off"
    )
    server = uvicorn.Server(config)
    listening.listen()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
