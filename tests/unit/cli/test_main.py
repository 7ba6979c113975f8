"""The command group: what it lists, how quickly, and how each kind of error ends a command."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from mlx_loopai import __version__
from mlx_loopai.cli import main as cli
from mlx_loopai.errors import GateFailed, InputError, Interrupted, LoopaiError

PROGRAM = [sys.executable, "-m", "mlx_loopai"]


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Runs `mlx-loopai demo` with a command that raises the given error. Returns: the exit status."""

    def run(error: BaseException) -> int:
        @click.command("demo")
        def command() -> None:
            raise error

        monkeypatch.setattr(cli.LazyGroup, "get_command", lambda self, ctx, name: command)
        return cli.main(["demo"])

    return run


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_listed_command_exists(name: str) -> None:
    assert importlib.util.find_spec(f"mlx_loopai.cli.{name}"), f"mlx_loopai/cli/{name}.py is missing"
    context = click.Context(cli.commands)
    command = cli.commands.get_command(context, name)
    assert isinstance(command, click.Command)
    options = {option for parameter in command.params for option in parameter.opts}
    if not isinstance(command, click.Group):
        assert {"--json", "--quiet"} <= options


def test_every_command_module_is_listed() -> None:
    folder = Path(cli.__file__).parent
    defines = re.compile(r"^(def command\(|command\b)", re.MULTILINE)
    modules = {path.stem for path in folder.glob("*.py") if defines.search(path.read_text(encoding="utf-8"))}
    assert modules == set(cli.COMMANDS)


def test_help_lists_the_commands_without_importing_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in cli.COMMANDS)
    loaded = "import sys; from mlx_loopai.cli.main import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    heavy = {"mlx.core", "numpy", "pydantic", "rich", "yaml", "mlx_lm", "transformers", "mlx_loopai.config"}
    assert not heavy & set(done.stderr.split())


def test_the_package_is_the_command() -> None:
    shown = subprocess.run([*PROGRAM, "--version"], capture_output=True, text=True, check=True)
    assert __version__ in shown.stdout
    wrong = subprocess.run([*PROGRAM, "trian"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr.split(":")[0]) == (2, "mlx-loopai")


def test_help_is_quick() -> None:
    # CPU time, not the clock's: other work on the machine must not fail this. Alone, both are the same.
    took_s = []
    for _ in range(3):
        process = subprocess.Popen([*PROGRAM, "--help"], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        assert status == 0
        took_s.append(usage.ru_utime + usage.ru_stime)
    assert min(took_s) < 0.4


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"mlx-loopai, version {__version__}\n"


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (LoopaiError("disk gone"), 1, "disk gone"),
        (InputError("a.jsonl:3: broken\n  JSON"), 2, "a.jsonl:3: broken JSON"),
        (GateFailed("retention 0.5 < 0.95"), 1, "retention 0.5 < 0.95"),
        (Interrupted("stopped at step 3; --resume goes on"), 130, "stopped at step 3; --resume goes on"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.Abort(), 130, "interrupted"),
        (click.FileError("x", hint="no"), 2, "Could not open file 'x': no; see `mlx-loopai --help`"),
        (OSError(errno.ENOSPC, "No space left on device", "/out/a"), 1, "/out/a: No space left on device; free some"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/out"),
            1,
            "/out: Permission denied (MLX_LOOPAI_TRACEBACK=1",
        ),
        (ValueError("odd\nthing"), 1, "ValueError: odd thing; unexpected, MLX_LOOPAI_TRACEBACK=1 shows where"),
        (MemoryError(), 1, "MemoryError: "),
        (SystemExit(3), 3, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_an_error_is_one_line_and_a_status(
    ending: Callable[[BaseException], int],
    capfd: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    line: str,
) -> None:
    assert ending(error) == status
    captured = capfd.readouterr()
    assert captured.out == ""
    if line:
        # What the user asked for is no error.
        said = "mlx-loopai: " if status == Interrupted.exit_status else "mlx-loopai: error: "
        assert captured.err.startswith(f"{said}{line}")
        assert captured.err.count("\n") == 1
    else:
        assert captured.err == ""


def test_the_traceback_is_there_on_request(
    ending: Callable[[BaseException], int], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cli.TRACEBACK_VARIABLE, "1")
    assert ending(ValueError("odd")) == 1
    assert "Traceback (most recent call last)" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["convret"], "no command 'convret'; did you mean convert?; see `mlx-loopai --help`"),
        (["qqq"], "no command 'qqq'; there are start, demo, convert, "),
        (["--colour"], "No such option '--colour'"),
        (["convert"], "Missing argument 'SOURCE'; see `mlx-loopai convert --help`"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"mlx-loopai: error: {line}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "Usage: mlx-loopai" in capsys.readouterr().err


def test_a_reader_that_left_is_no_error_to_talk_about() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run([*PROGRAM, "--help"], stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_under_stdout() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PROGRAM, "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("mlx-loopai: error: No space left on device; ")
    assert done.stderr.count("\n") == 1
