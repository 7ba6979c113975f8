"""A run's folder: what it was, what happened, and who is writing it."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_loopai.errors import InputError


@dataclass(frozen=True)
class RunDirectory:
    """resolved.yaml, run.json, events.jsonl, checkpoints/, adapter/ and report.html of one run."""

    path: Path

    @property
    def resolved(self) -> Path:
        return self.path / "resolved.yaml"

    @property
    def identity(self) -> Path:
        return self.path / "run.json"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def importance(self) -> Path:
        return self.path / "importance.safetensors"

    @property
    def rehearsal(self) -> Path:
        return self.path / "rehearsal.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process. Raises: InputError when another process writes it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InputError(
                f"{self.path}: a file stands where the run's folder should be; give another --out"
            ) from None
        with (self.path / ".lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(
                    f"{self.path}: another process is writing this run; wait for it or give another --out"
                ) from None
            self._end_last_line()
            yield

    def record(self, kind: str, **values: Any) -> None:
        """Append one event: `kind`, wall-clock time and the values."""
        line = json.dumps({"event": kind, "time": round(time.time(), 3), **values}, ensure_ascii=False)
        with self.events.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def _end_last_line(self) -> None:
        """A line that a crash cut short must not swallow the next event."""
        if self.events.exists() and not self.events.read_bytes().endswith(b"\n"):
            with self.events.open("a", encoding="utf-8") as stream:
                stream.write("\n")

    def read_events(self) -> list[dict[str, Any]]:
        """All events; lines that a crash cut short are left out."""
        if not self.events.exists():
            return []
        found = []
        for line in self.events.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return found
