"""A headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SWITCHES = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0")


class Tab:
    """One page; what it logs and what it asks of the network is kept in `events`."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._numbers = connection, itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            found = json.loads(self._connection.recv(timeout=60))
            if found.get("id") == number:
                return found["result"]
            self.events.append(found)

    def run(self, script: str) -> Any:
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, condition: str) -> None:
        for _ in range(600):
            if self.run(condition):
                return
            time.sleep(0.1)
        raise AssertionError(f"{condition}: not within a minute")


@contextlib.contextmanager
def open_tab() -> Iterator[Tab]:
    client = pytest.importorskip("websockets.sync.client", reason="the extra 'dev' is not installed")
    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium on this machine")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *SWITCHES, f"--user-data-dir={profile}", "about:blank"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as browser:
            try:
                assert browser.stderr is not None
                line = next((line for line in browser.stderr if "DevTools listening" in line), "")
                address = line.partition("ws://")[2].partition("/")[0]
                with urllib.request.urlopen(f"http://{address}/json") as answer:
                    url = next(tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page")
                with client.connect(url, max_size=None) as connection:
                    yield Tab(connection)
            finally:
                browser.terminate()
