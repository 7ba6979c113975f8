from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_loopai.cli.convert import command
from mlx_loopai.cli.main import main
from mlx_loopai.errors import InputError

Build = Callable[..., Path]


def test_the_json_document(gguf_file: Build, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(
        command,
        [str(gguf_file()), "--out", str(out), "--dtype", "fp16", "--json"],
    )
    assert result.exit_code == 0, result.exception
    document = json.loads(result.stdout)
    assert document["out"] == str(out)
    assert document["tensors"] == 27
    assert document["bytes"] == sum(path.stat().st_size for path in out.iterdir())
    assert document["peak_rss_bytes"] > 10_000_000
    assert document["verify"] is None
    assert document["dtype"] == "fp16"
    assert result.stderr.splitlines()[-1].startswith("converting: ")


def test_quiet_and_the_summary(model_folder: Build, tmp_path: Path) -> None:
    source = str(model_folder())
    quiet = CliRunner().invoke(command, [source, "--out", str(tmp_path / "one"), "--quiet"])
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    loud = CliRunner().invoke(command, [source, "--out", str(tmp_path / "two")])
    assert "converting: " in loud.stderr
    assert "27 tensors" in quiet.stdout
    assert "27 tensors" in loud.stdout


def test_the_embedded_model_is_a_source(tmp_path: Path) -> None:
    """Every other command knows nano; `convert nano` found no such folder."""
    done = CliRunner().invoke(command, ["nano", "--out", str(tmp_path / "nano"), "--quiet"])
    assert done.exit_code == 0, done.exception
    assert (tmp_path / "nano" / "model.safetensors").is_file()


def test_errors_are_raised_for_the_group_to_print(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, InputError)
    wrong = CliRunner().invoke(command, [str(tmp_path), "--out", str(tmp_path / "out"), "--dtype", "int3"])
    assert wrong.exit_code == 2


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from mlx_loopai.cli.convert import command\n"
        "heavy = {'numpy', 'gguf', 'mlx.core', 'mlx_lm', 'huggingface_hub', 'rich', 'converters.convert'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(("to", "how"), [("mlx", "continues after the files"), ("gguf", "starts over")])
def test_ctrl_c_says_how_to_go_on(
    model_folder: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], to: str,
    how: str,
) -> None:  # fmt: skip
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("converters.convert.convert", interrupted)
    assert main(["convert", str(model_folder()), "--out", str(tmp_path / "out"), "--to", to]) == 130
    assert f"stopped by Ctrl-C; the same command {how}" in capfd.readouterr().err
