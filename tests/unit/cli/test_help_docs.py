"""docs/help.md says what `--help` says."""

from __future__ import annotations

from pathlib import Path

from mlx_loopai.cli.help_text import help_markdown
from mlx_loopai.cli.main import COMMANDS
from mlx_loopai.config import option_table

DOCUMENT = Path(__file__).parents[3] / "docs" / "help.md"


def test_the_document_is_fresh() -> None:
    stale = "docs/help.md is stale: run `make docs`"
    assert DOCUMENT.is_file(), stale
    assert DOCUMENT.read_text(encoding="utf-8") == help_markdown(), stale


def test_it_holds_every_command_and_every_option() -> None:
    text = help_markdown()
    assert all(f"\n## mlx-loopai {name}\n" in text for name in COMMANDS)
    assert all(f"| `{name}` |" in text for name, _, _ in option_table())
