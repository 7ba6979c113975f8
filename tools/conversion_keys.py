"""Writes the table of configuration keys of docs/conversion.md from mlx_loopai/models/configuration_keys.

python -m tools.conversion_keys
"""

from __future__ import annotations

from pathlib import Path

from mlx_loopai.models.configuration_keys import KEYS, KINDS
from tools.doc_markers import with_marked

DOCUMENT = Path(__file__).parent.parent / "docs" / "conversion.md"
_COLUMNS = ("key", "models", "mlx-lm", "transformers", "GGUF (llama.cpp)", "here")


def table() -> str:
    """A Markdown table with one row for each key."""
    rows = ((f"`{key.name}`", _models(key.of), key.mlx_lm, key.transformers, key.gguf, key.here) for key in KEYS)
    return "\n".join([_row(_COLUMNS), "|" + "---|" * len(_COLUMNS), *map(_row, rows)])


def with_table(text: str) -> str:
    """`text` with the table. Raises: InputError without its markers."""
    return with_marked(text, "configuration keys", table(), DOCUMENT)


def _models(of: tuple[str, ...]) -> str:
    others = [kind for kind in KINDS if kind not in of]
    if not others:
        return "all"
    return ", ".join(of) if len(others) > 2 else f"all but {' and '.join(others)}"


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
