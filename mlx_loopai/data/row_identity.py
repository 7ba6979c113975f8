"""Hashes of encoded rows: equal for rows of equal content, whatever file they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Literal

from mlx_loopai.data.tokens import TokenRow

# Which hash of a row: `row_digest` or `content_digest`.
Digest = Literal["digest", "content"]


def row_digest(row: TokenRow) -> bytes:
    """Hash of a row's tokens: the same for the same row in any file, so that rows can be ordered by it."""
    return hashlib.sha256(row.ids.tobytes() + _shown(row)).digest()


def content_digest(row: TokenRow) -> bytes:
    """Hash of all of a row that training reads, as `rows_digest` of it alone."""
    found = hashlib.sha256()
    add_rows(found, [row])
    return found.digest()


def rows_digest(rows: Iterable[TokenRow]) -> str:
    """Hash of rows: of their tokens, which of them are supervised, and how their answers were judged."""
    found = hashlib.sha256()
    add_rows(found, rows)
    return found.hexdigest()


def add_rows(digest: Any, rows: Iterable[TokenRow]) -> None:
    """Update the hash `digest` with the content of rows."""
    for row in rows:
        digest.update(row.ids.tobytes() + row.supervised.tobytes() + _shown(row))
        if row.good is not None:
            digest.update(b"good" if row.good else b"bad")
        if row.rejected is not None:
            add_rows(digest, [row.rejected])
        if row.candidates is not None:
            digest.update(row.candidates["token"].tobytes() + row.candidates["score"].tobytes())
        if row.wishes is not None:
            digest.update(repr(row.wishes).encode())


def prompt_digest(row: TokenRow) -> bytes:
    """Hash of what the model reads before a row's first answer."""
    return hashlib.sha256(row.prompt.tobytes() + _shown(row)).digest()


def _shown(row: TokenRow) -> bytes:
    """Digests of a row's pictures, since rows with equal tokens may show different ones."""
    return "".join(picture.digest for picture in row.pictures).encode()
