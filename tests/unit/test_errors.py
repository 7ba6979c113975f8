"""What an error advises about an extra that is not installed: a command for the environment that is running."""

from __future__ import annotations

import sys

import pytest

from mlx_loopai.errors import install_command


def test_an_environment_of_its_own_is_asked_by_its_own_pip() -> None:
    assert install_command("serve") == f"{sys.executable} -m pip install 'mlx-loopai[serve]'"


@pytest.mark.parametrize(
    ("prefix", "command"),
    [
        ("/home/a/.local/share/uv/tools/mlx-loopai", "uv tool install --force '.[serve]' (in the clone of mlx-loopai)"),
        ("/home/a/.local/share/pipx/venvs/mlx-loopai", "pipx install --force '.[serve]' (in the clone of mlx-loopai)"),
    ],
)
def test_a_tools_environment_is_built_anew(monkeypatch: pytest.MonkeyPatch, prefix: str, command: str) -> None:
    monkeypatch.setattr(sys, "prefix", prefix)
    assert install_command("serve") == command
