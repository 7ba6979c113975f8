"""What makes two encoded rows the same row, wherever they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from mlx_loopai.data.tokens import TokenRow


def row_digest(row: TokenRow) -> bytes:
    """Orders rows by what they hold, wherever they come from."""
    return hashlib.sha256(row.ids.tobytes() + _shown(row)).digest()


def rows_digest(rows: Iterable[TokenRow]) -> str:
    """Identity of rows: their tokens, which of them are taught, and how their answers were judged."""
    found = hashlib.sha256()
    add_rows(found, rows)
    return found.hexdigest()


def add_rows(digest: Any, rows: Iterable[TokenRow]) -> None:
    """Let `digest` take in the identity of rows."""
    for row in rows:
        digest.update(row.ids.tobytes() + row.supervised.tobytes() + _shown(row))
        if row.good is not None:
            digest.update(b"good" if row.good else b"bad")
        if row.rejected is not None:
            add_rows(digest, [row.rejected])


def prompt_digest(row: TokenRow) -> bytes:
    """The same for all rows that show the model the same before their first answer."""
    prompt = row.ids[: int(row.supervised.argmax())]
    return hashlib.sha256(prompt.tobytes() + _shown(row)).digest()


def _shown(row: TokenRow) -> bytes:
    """Which pictures a row shows: two rows of the same tokens may show others."""
    return "".join(picture.digest for picture in row.pictures).encode()
