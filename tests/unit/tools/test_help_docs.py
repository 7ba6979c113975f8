"""docs/help.md says what `--help` says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mlx_loopai.cli.main import COMMANDS
from mlx_loopai.config import option_table
from tools.help_text import help_markdown

DOCUMENT = Path(__file__).parents[3] / "docs" / "help.md"


def test_the_document_is_fresh(tmp_path: Path) -> None:
    """As `make docs` writes it: in a process where no command ran before, since click keeps what it made for that."""
    subprocess.run([sys.executable, "-m", "tools.help_text", tmp_path / "help.md"], check=True)
    assert DOCUMENT.read_bytes() == (tmp_path / "help.md").read_bytes(), "docs/help.md is stale: run `make docs`"


def test_it_holds_every_command_and_every_option() -> None:
    text = help_markdown()
    assert all(f"\n## mlx-loopai {name}\n" in text for name in COMMANDS)
    assert all(f"| `{name}` |" in text for name, _, _ in option_table())
