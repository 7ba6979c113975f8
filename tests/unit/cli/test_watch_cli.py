"""`mlx-loopai watch`: its page is there until it is asked to end, and a wrong folder is said at once."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

pytest.importorskip("uvicorn")

from mlx_loopai.cli.main import main
from mlx_loopai.cli.watch import Looking
from mlx_loopai.runs.directory import RunDirectory


def test_the_page_is_served_until_it_is_asked_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mlx_loopai", "watch", str(tmp_path), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as page:
        assert page.stdout is not None
        document = json.loads(page.stdout.readline())
        assert document.keys() == {"url", "run"}
        assert httpx.get(f"{document['url']}/state").json()["step"] == 0
        page.send_signal(signal.SIGTERM)
        assert page.wait(timeout=30) == 0


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(tmp_path / "no")]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["watch", str(tmp_path), "--port", port]) == 2
    assert f"--port {port}" in capsys.readouterr().err


def test_a_run_that_shows_itself_is_watched_from_its_first_event_on(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    RunDirectory(tmp_path, sinks=(Looking(run),)).record("step", step=1)
    assert run.is_watched
