"""A run's folder: its files, its log of events, its lock, and requests from those who watch it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from mlx_loopai.errors import InputError
from mlx_loopai.files import locked_folder, seal_path, write_whole
from mlx_loopai.language import tr

Wish = Literal["save", "stop"]
WISHES: tuple[Wish, ...] = get_args(Wish)
# A page that watches a run asks for its state every second; a run counts as watched for this long after.
_WATCHED_S = 30.0


class EventSink(Protocol):
    """Receives the events of a run as they are recorded."""

    def record(self, kind: str, values: Mapping[str, Any]) -> None:
        """An event of the kind `kind`, such as `step`."""


@dataclass(frozen=True)
class RunDirectory:
    """resolved.yaml, run.json, events.jsonl, checkpoints/, adapter/ or model/, and report.html of one run."""

    path: Path
    writes: bool = True  # False: another process of the same run writes it
    sinks: tuple[EventSink, ...] = ()

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
    def model(self) -> Path:
        return self.path / "model"

    @property
    def result(self) -> Path | None:
        """The adapter or the model that the run wrote; None before its end."""
        return next((folder for folder in (self.adapter, self.model) if folder.exists()), None)

    @property
    def importance(self) -> Path:
        return self.path / "importance.safetensors"

    @property
    def ranks(self) -> Path:
        return self.path / "ranks.json"

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

    @property
    def measured(self) -> list[Path]:
        """The files computed from the base before the first step, with their checksum files."""
        files = (self.rehearsal, self.monitor, self.importance, self.ranks)
        return [*files, *map(seal_path, files)]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for this process; the files that an input error leaves before the first save are removed.

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
            self._wish.unlink(missing_ok=True)  # a request to a process that has ended
            try:
                yield
            except InputError:
                if not (started or self.checkpoints.exists() or self.result):
                    self._clear()
                raise

    def record(self, kind: str, **values: Any) -> None:
        """Append one event: `kind`, wall-clock time and the values."""
        if not self.writes:
            return
        line = json.dumps({"event": kind, "time": round(time.time(), 3), **values}, ensure_ascii=False)
        with self.events.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
        for sink in self.sinks:
            sink.record(kind, values)

    @property
    def _wish(self) -> Path:
        return self.path / ".wish"

    @property
    def _look(self) -> Path:
        return self.path / ".look"

    def ask(self, wish: Wish) -> None:
        """Ask the process that writes this run to save after its step, or to save and stop."""
        write_whole(self._wish, wish)

    def take_wish(self) -> Wish | None:
        """What was asked for since the last call, if anything."""
        if not self.writes or not self._wish.exists():
            return None
        asked = self._wish.read_text(encoding="utf-8")
        self._wish.unlink(missing_ok=True)
        return next((wish for wish in WISHES if wish == asked), None)

    def look(self) -> None:
        """Tell the run that somebody is watching it."""
        if self.path.is_dir():
            self._look.touch()

    @property
    def is_watched(self) -> bool:
        """Whether somebody looked within the last half minute."""
        try:
            return self.writes and time.time() - self._look.stat().st_mtime < _WATCHED_S
        except OSError:
            return False

    def forget_after(self, step: int) -> None:
        """Remove what a stopped process recorded after the checkpoint of `step`: those steps are done again."""
        if self.writes and self.events.exists():
            kept = [event for event in self.read_events() if event.get("step", 0) <= step]
            lines = [json.dumps(event, ensure_ascii=False) + "\n" for event in kept]
            write_whole(self.events, "".join(lines))

    def _clear(self) -> None:
        for file in (self.identity, self.resolved, self.events, self._look, *self.measured):
            file.unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def _end_last_line(self) -> None:
        """End a line that a crash cut short, so that it does not swallow the next event."""
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
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                found.append(event)
        return found
