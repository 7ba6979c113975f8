"""A run's folder: what it was, what happened, and who is writing it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_loopai.errors import InputError
from mlx_loopai.files import locked_folder, write_whole
from mlx_loopai.language import tr


@dataclass(frozen=True)
class RunDirectory:
    """resolved.yaml, run.json, events.jsonl, checkpoints/, adapter/ and report.html of one run."""

    path: Path
    writes: bool = True  # False: another process of the same run writes it

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
    def verdict(self) -> Path:
        return self.path / "verdict.json"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def monitor(self) -> Path:
        return self.path / "monitor.jsonl"

    @property
    def rehearsal(self) -> Path:
        return self.path / "rehearsal.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; what an input error leaves before the first save is removed.

        Raises: InputError when another process writes it.
        """
        if not self.writes:
            self.path.mkdir(parents=True, exist_ok=True)
            yield
            return
        started = self.identity.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InputError(
                tr("{path}: is a file, where the run's folder should be; give another `out`", path=self.path)
            ) from None
        taken = tr("{path}: another process is writing this run; wait for it or give another `out`", path=self.path)
        with locked_folder(self.path, taken):
            self._end_last_line()
            try:
                yield
            except InputError:
                if not (started or self.checkpoints.exists() or self.adapter.exists()):
                    self._clear()
                raise

    def record(self, kind: str, **values: Any) -> None:
        """Append one event: `kind`, wall-clock time and the values."""
        if not self.writes:
            return
        line = json.dumps({"event": kind, "time": round(time.time(), 3), **values}, ensure_ascii=False)
        with self.events.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def forget_after(self, step: int) -> None:
        """Leave out what a stopped process recorded after the checkpoint of `step`: those steps are done again."""
        if self.writes and self.events.exists():
            kept = [event for event in self.read_events() if event.get("step", 0) <= step]
            lines = [json.dumps(event, ensure_ascii=False) + "\n" for event in kept]
            write_whole(self.events, "".join(lines))

    def _clear(self) -> None:
        for file in (self.identity, self.resolved, self.events, self.importance, self.rehearsal, self.monitor):
            file.unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

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
