"""A headless Chromium, driven over its DevTools protocol: for tests of the pages, and for their pictures in docs."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SWITCHES = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0")
_QUALITY = 80


class NoBrowserError(Exception):
    """This machine has no Chromium, or nothing that speaks to it."""


class Tab:
    """One page; what it logs and what it asks of the network is kept in `events`."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._numbers = connection, itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            found: dict[str, Any] = json.loads(self._connection.recv(timeout=60))
            if found.get("id") == number:
                result: dict[str, Any] = found["result"]
                return result
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

    def resize(self, width: int, height: int) -> None:
        """Show the page at this size in CSS pixels; a narrow one as a telephone does."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def darken(self, dark: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path) -> None:
        """Write what is shown to `path` as WebP."""
        shot = self.call("Page.captureScreenshot", format="webp", quality=_QUALITY)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def open_tab() -> Iterator[Tab]:
    """A new browser with one page. Raises: NoBrowserError."""
    try:
        from websockets.sync import client
    except ImportError:
        raise NoBrowserError("the extra 'dev' is not installed") from None
    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        raise NoBrowserError("no Chromium on this machine")
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
