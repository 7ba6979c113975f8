"""A file of answers that grows row by row, and continues where an interrupted call left it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from mlx_loopai.errors import InputError
from mlx_loopai.files import write_whole
from mlx_loopai.language import tr


class AnswersFile:
    """A JSONL file: its rows are in the order in which answers end; once all are there, in the order of the prompts.

    Each row has `index` (its prompt's place, from 0), `id` and `key`, a hash of the prompt's tokens and of every
    setting. `done` holds the rows that are there, by index. Raises: InputError when the file holds rows of other
    settings, or of another kind.
    """

    def __init__(self, path: Path, ids: Sequence[str], keys: Sequence[str]) -> None:
        self._path, self._ids, self._keys = path, ids, keys
        self.done: dict[int, dict[str, Any]] = {}
        n_bytes = self._read() if path.exists() else 0
        self._file = path.open("r+b" if path.exists() else "xb")
        # What a killed process left of a line is cut off.
        self._file.truncate(n_bytes)
        self._file.seek(n_bytes)

    def __enter__(self) -> AnswersFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, index: int, values: dict[str, Any]) -> None:
        """Write one row to the disk, so that it survives whatever happens next."""
        row = {"index": index, "id": self._ids[index], "key": self._keys[index], **values}
        self._file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
        self._file.flush()
        self.done[index] = row

    def finish(self) -> list[dict[str, Any]]:
        """Rewrite the file in the prompts' order, when all rows are there; returns the rows."""
        rows = [self.done[index] for index in range(len(self._keys))]
        write_whole(self._path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return rows

    def _read(self) -> int:
        """Fill `done`. Returns: how many bytes are whole lines."""
        content = self._path.read_bytes()
        n_bytes = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:n_bytes].split(b"\n")[:-1], start=1):
            self._take(line, f"{self._path}:{number}")
        if n_bytes < len(content) and not self.done and not content.startswith(b'{"index"'):
            raise InputError(
                tr("{path}: holds something else than answers; name another file with `out`", path=self._path)
            )
        return n_bytes

    def _take(self, line: bytes, place: str) -> None:
        try:
            row = json.loads(line)
            index, key = row["index"], row["key"]
        except (ValueError, TypeError, KeyError):
            raise InputError(
                tr("{place}: is not an answer of this command; name another file with `out`", place=place)
            ) from None
        if not isinstance(index, int) or not 0 <= index < len(self._keys) or self._keys[index] != key:
            raise InputError(
                tr(
                    "{place}: was written with other prompts or settings; name another file with `out`, or delete "
                    "this one",
                    place=place,
                )
            )
        self.done[index] = row
