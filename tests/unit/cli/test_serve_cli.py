from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from mlx_loopai.cli import serve as serve_cli
from mlx_loopai.cli.serve import command
from mlx_loopai.errors import InputError


def failure(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, InputError), result.output
    return str(result.exception)


def test_what_is_wrong_is_said_before_the_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_loopai.generation.lineup.open_lineup", lambda *_: pytest.fail("loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "in use" in failure("--port", str(taken.getsockname()[1]))
    assert "--host no.such.host.invalid" in failure("--host", "no.such.host.invalid")
    assert "unknown part" in failure("--scripts", "klingon")
    assert "temperature" in failure("--temperature", "-1")
    assert "no such folder" in failure("--port", "0", "--rag", "missing")
    monkeypatch.setenv(serve_cli.KEY_VARIABLE, " ")
    assert "set but empty" in failure()


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'mlx-loopai[serve]'" in failure()


def test_names_of_served_models(tmp_path: Path) -> None:
    assert serve_cli._called("nano") == "nano"
    assert serve_cli._called("Qwen/Qwen2.5-1.5B-Instruct") == "Qwen/Qwen2.5-1.5B-Instruct"
    assert serve_cli._called(str(tmp_path)) == tmp_path.name


def test_a_server_open_to_the_network_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(serve_cli, "_run", lambda lineup, options, listening, quiet: seen.append((options, listening)))
    command.main(["--host", "0.0.0.0", "--port", "0", "--json"], standalone_mode=False)
    options, listening = seen[0]
    assert listening.fileno() == -1  # closed
    assert not options.loopback
    assert options.context_tokens == 1024
    printed = capsys.readouterr()
    assert json.loads(printed.out)["model"] == "nano"
    assert serve_cli.KEY_VARIABLE in printed.err


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGTERM, 0), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_lets_the_answer_end_and_stops_the_server(sent: signal.Signals, status: int) -> None:
    call = [sys.executable, "-m", "mlx_loopai", "serve", "--port", "0", "--json"]
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            body = {"messages": [{"role": "user", "content": "한국의 수도는?"}], "stream": True, "temperature": 0}
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as response:
                lines = response.iter_lines()
                next(lines)
                process.send_signal(sent)
                assert "data: [DONE]" in list(lines)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == status, errors
    assert "Traceback" not in errors
