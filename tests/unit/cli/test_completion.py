"""The shell completion: its script, and what it offers without importing every command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from mlx_loopai.cli.main import COMMANDS, COMPLETION_VARIABLE, main


def _offered(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], line: str) -> list[str]:
    """The words that zsh is given at the end of `line`."""
    monkeypatch.setenv(COMPLETION_VARIABLE, "zsh_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    assert main([]) == 0
    return capfd.readouterr().out.splitlines()[1::3]  # kind, word, help


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("mlx-loopai tr", {"train"}),
        ("mlx-loopai ", set(COMMANDS)),
        ("mlx-loopai data au", {"audit"}),
        ("mlx-loopai completion ", {"zsh", "bash", "fish"}),
        ("mlx-loopai filter --rep", {"--report"}),
    ],
)
def test_what_is_offered(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], line: str, words: set[str]
) -> None:
    assert set(_offered(monkeypatch, capfd, line)) == words


def test_offering_commands_imports_none_of_them() -> None:
    environment = os.environ | {COMPLETION_VARIABLE: "zsh_complete", "COMP_WORDS": "mlx-loopai ", "COMP_CWORD": "1"}
    loaded = "import sys; from mlx_loopai.cli.main import main; main(); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, env=environment)
    assert not {"mlx_loopai.cli.train", "mlx.core", "numpy"} & set(done.stderr.split())


@pytest.mark.parametrize("shell", ["zsh", "bash", "fish"])
def test_the_script(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capfd.readouterr().out
    assert f"{COMPLETION_VARIABLE}={shell}_complete" in script
    assert main(["completion", shell, "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"shell": shell, "script": script}
    if shutil.which(shell):
        subprocess.run([shell, "-n", "-c", script], check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
def test_bash_completes_a_command(tmp_path: os.PathLike[str]) -> None:
    """The whole way: bash reads the script, calls the program, and gets the word."""
    on_path = os.path.join(tmp_path, "mlx-loopai")
    with open(on_path, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexec {sys.executable} -m mlx_loopai "$@"\n')
    os.chmod(on_path, 0o755)
    lines = [
        'eval "$(mlx-loopai completion bash)"',
        "COMP_WORDS=(mlx-loopai genera); COMP_CWORD=1",
        "_mlx_loopai_completion mlx-loopai",
        'echo "${COMPREPLY[*]}"',
    ]
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", "\n".join(lines)], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "generate"
