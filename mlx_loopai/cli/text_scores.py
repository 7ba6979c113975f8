"""`mlx-loopai evaluate --text`: the metrics of a file of generated texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def text_document(path: Path, references: Path | None, tokenize: str) -> dict[str, Any]:
    """Every metric of the texts of `path`. Raises: InputError for unreadable files or numbers that differ."""
    from mlx_loopai.evaluation.text_metrics import read_generated, score_texts

    generated = read_generated(path)
    wanted = [reference.text for reference in read_generated(references)] if references else None
    return {"text": str(path), **score_texts(generated, wanted, "ko-mecab" if tokenize == "ko-mecab" else "char")}


def text_table(document: dict[str, Any]) -> str:
    """The metrics for people, one a line; what could not be computed is left out."""
    lines = [f"{document['n']} texts of {document['text']}"]
    lines += [f"  {name:<26}{_shown(value)}" for name, value in document.items() if isinstance(value, float)]
    lines += [f"  {name}: {signature}" for name, signature in (document["signatures"] or {}).items()]
    return "\n".join(lines)


def _shown(value: float) -> str:
    return f"{value:8.3f}" if abs(value) <= 1 else f"{value:8.1f}"
