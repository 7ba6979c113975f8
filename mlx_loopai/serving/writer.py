"""The thread that owns MLX: it generates all answers as one batch and delivers their text as it comes."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from mlx_loopai.config import GenerationOptions
from mlx_loopai.data.images import Picture
from mlx_loopai.errors import InputError
from mlx_loopai.generation.answer_stream import Writing
from mlx_loopai.generation.batch import Chance, RowPiece
from mlx_loopai.generation.grammar import Grammar
from mlx_loopai.generation.lineup import Key, Lineup, LineupBatch
from mlx_loopai.generation.session import AdapterWhen
from mlx_loopai.language import tr
from mlx_loopai.models.prompt_cache import WORTH_TOKENS, Prefix, RecentPrefixes, compute_prefix, shared_tokens
from mlx_loopai.serving.shapes import ApiError, Report, late_error, stopping_error


@dataclass(frozen=True)
class Shown:
    """Text for a reader, and if asked for the log-probabilities of the tokens chosen since the last text."""

    text: str
    chances: tuple[Chance, ...] = ()


Event = Shown | Report | ApiError


@dataclass(frozen=True, eq=False)
class Task:
    """An answer to write. `deliver` is called in the writer's thread with text, and at the end a Report or an ApiError.

    model: a name of the lineup. adapter_when: see `Lineup.session`. goes_on: the prompt ends with the beginning of the
    answer. deadline: on the clock of `time.monotonic`. row: index among the choices of one request; shared: whether
    there are others. likeliest: see `Request`.
    """

    model: str
    prompt: tuple[int, ...]
    options: GenerationOptions
    goes_on: bool
    grammar: Grammar | None
    deadline: float
    deliver: Callable[[Event], None]
    row: int = 0
    shared: bool = False
    likeliest: int | None = None
    pictures: tuple[Picture, ...] = ()
    adapter_when: AdapterWhen | None = None


@dataclass(frozen=True, eq=False)
class Job:
    """Other work for the thread that owns MLX, done between two steps. `deliver` is called there with its result."""

    work: Callable[[], Any]
    deliver: Callable[[Any], None]


@dataclass(frozen=True, eq=False)
class _Row:
    task: Task
    writing: Writing
    n_known: int  # tokens of the prompt that were known before
    chances: list[Chance] = field(default_factory=list)


class Writer:
    """Writes up to `batch_rows` answers at once; more have to wait. Call `start`, and `close` at the end.

    The keys and values of the last answers are kept, at most `cache_bytes` of them, so that a chat's next turn reads
    only its new tokens.
    """

    def __init__(self, lineup: Lineup, batch_rows: int, cache_bytes: int, on_failure: Callable[[str], None]) -> None:
        self._lineup, self._batch_rows, self._on_failure = lineup, batch_rows, on_failure
        self._recent = RecentPrefixes(cache_bytes)
        self._orders: queue.SimpleQueue[tuple[str, Task] | Job | None] = queue.SimpleQueue()
        self._waiting: deque[Task] = deque()
        self._rows: dict[Key, _Row] = {}
        self._keys: dict[Task, Key] = {}
        self._closing = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, task: Task) -> None:
        self._orders.put(("write", task))
        if self._ended.is_set():
            self._refuse_waiting()

    def call(self, job: Job) -> None:
        """Do other work in this thread; an exception is delivered as an ApiError."""
        self._orders.put(job)
        if self._ended.is_set():
            self._refuse_waiting()

    def cancel(self, task: Task) -> None:
        """Free the task's place; it may have ended already."""
        self._orders.put(("forget", task))

    def stop(self) -> None:
        """End all answers and the thread, each answer with an error."""
        self._orders.put(None)

    def close(self) -> None:
        """`stop`, and wait until the thread has ended."""
        self.stop()
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def __len__(self) -> int:
        """How many answers are being written or wait."""
        return len(self._rows) + len(self._waiting)

    def _run(self) -> None:
        while not self._closing:
            try:
                with LineupBatch(self._lineup, self._batch_rows, self._keep) as batch:
                    self._write(batch)
            except Exception as error:  # what breaks one batch must not end the server
                self._on_failure(f"{type(error).__name__}: {error}")
                self._fail_all(ApiError(500, tr("the answer could not be written; the server's log says why")))
        self._fail_all(stopping_error())
        self._ended.set()
        self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        """Answer orders that came after the thread's end with an error."""
        with contextlib.suppress(queue.Empty):
            while True:
                order = self._orders.get_nowait()
                if isinstance(order, Job):
                    order.deliver(stopping_error())
                elif order is not None and order[0] == "write":
                    order[1].deliver(stopping_error())

    def _write(self, batch: LineupBatch) -> None:
        while True:
            self._take_orders(batch)
            if self._closing:
                return
            self._end_late(batch)
            openings = self._openings(list(islice(self._waiting, self._batch_rows - len(self._rows))))
            while self._waiting and len(self._rows) < self._batch_rows:
                self._begin(batch, self._waiting[0], openings)
                self._waiting.popleft()  # not before: an error in `_begin` must reach this task, too
            for key, found in batch.step():
                self._take(batch, key, found)

    def _take_orders(self, batch: LineupBatch) -> None:
        """Carry out the orders; wait for one if there is nothing to write."""
        while not self._closing and not (len(self) and self._orders.empty()):
            order = self._orders.get()
            if order is None:
                self._closing = True
            elif isinstance(order, Job):
                self._do(order)
            elif order[0] == "write":
                self._waiting.append(order[1])
            elif order[1] in self._keys:
                self._drop(batch, self._keys[order[1]])
            elif order[1] in self._waiting:
                self._waiting.remove(order[1])

    def _do(self, job: Job) -> None:
        try:
            job.deliver(job.work())
        except InputError as error:
            job.deliver(ApiError(400, str(error), error.argument))
        except Exception as error:  # one job that fails must not end the answers
            self._on_failure(f"{type(error).__name__}: {error}")
            job.deliver(ApiError(500, tr("this could not be computed; the server's log says why")))

    def _openings(self, tasks: Sequence[Task]) -> dict[str, Prefix]:
        """What the prompts of tasks that begin now have in common, such as a system prompt, read once for each reader.

        Answers that ended have left what they read. But of those that begin together none has.
        """
        prompts: dict[str, list[Sequence[int]]] = {}
        for task in tasks:
            if not task.pictures:
                session, base = self._lineup.session(task.model, task.adapter_when), self._lineup.base
                reads_itself = session.switch is None and session.uses_adapter(task.prompt)
                prompts.setdefault(task.model if reads_itself else base, []).append(task.prompt)
        found = {}
        for reader, own in prompts.items():
            length = len(shared_tokens(own)) if len(own) > 1 else 0
            if length >= WORTH_TOKENS:
                begun = own[0][: length + 1]
                opening = self._read(begun, reader, self._recent.prefix(begun, reader))
                if opening is not None:
                    found[reader] = opening
        return found

    def _known(self, prompt: Sequence[int], reader: str, openings: Mapping[str, Prefix]) -> Prefix | None:
        """The longest beginning of `prompt` that `reader` has read."""
        recent, opening = self._recent.prefix(prompt, reader), openings.get(reader)
        if opening is None or not opening.fits(prompt):
            return recent
        return opening if recent is None or len(recent.tokens) < len(opening.tokens) else recent

    def _begin(self, batch: LineupBatch, task: Task, openings: Mapping[str, Prefix]) -> None:
        session, base = self._lineup.session(task.model, task.adapter_when), self._lineup.base
        read = None
        if session.switch is not None and not task.pictures:
            # What the switch reads is kept, since the next turn, and the base where it answers, continue from there.
            read = self._read(task.prompt, base, self._known(task.prompt, base, openings))
        try:
            if task.pictures and task.likeliest is not None:
                raise InputError(tr("`logprobs`: not given for answers to pictures"), "logprobs")
            request = session.request(
                task.prompt, task.options, task.grammar, task.row, pictures=task.pictures, read=read
            )
        except InputError as error:
            task.deliver(ApiError(400, str(error), error.argument))
            return
        reader = self._lineup.reader(task.model, request)
        prefix = read if read is not None and reader == base else self._known(request.prompt, reader, openings)
        if task.pictures:
            prefix = None  # all pictures have the same tokens, so only prompts of text are cached and shared
        elif task.shared:
            prefix = self._read(request.prompt, reader, prefix)
        request = replace(request, goes_on=task.goes_on, likeliest=task.likeliest)
        key = batch.add(reader, replace(request, prefix=prefix))
        # Only the batch needs the prefix, and only until it has copied it.
        row = _Row(task, Writing(request), n_known=len(prefix.tokens) if prefix else 0)
        self._rows[key], self._keys[task] = row, key

    def _read(self, prompt: Sequence[int], reader: str, known: Prefix | None) -> Prefix | None:
        """The keys and values of `prompt` except its last token, computed once for all answers that continue it."""
        if len(prompt) < 2 or (known is not None and len(known.tokens) == len(prompt) - 1):
            return known
        self._lineup.switch_to(reader)
        found = compute_prefix(self._lineup.loaded.model, prompt[:-1], known)
        self._recent.keep(found.tokens, found.cache, reader)
        return found

    def _keep(self, reader: str, tokens: list[int], cache: list[Any]) -> None:
        self._recent.keep(tokens, cache, reader)

    def _take(self, batch: LineupBatch, key: Key, found: RowPiece) -> None:
        row = self._rows.get(key)
        if row is None:
            return
        if found.chance is not None:
            row.chances.append(found.chance)
        self._show(row, row.writing.take(found.piece))
        if found.last or row.writing.stopped:
            self._drop(batch, key)
            self._end(row)

    def _end(self, row: _Row, late: bool = False) -> None:
        self._show(row, row.writing.end())
        row.task.deliver(Report(row.writing.text(), late, row.n_known))

    def _show(self, row: _Row, text: str) -> None:
        if text or row.chances:
            row.task.deliver(Shown(text, tuple(row.chances)))
            row.chances.clear()

    def _end_late(self, batch: LineupBatch) -> None:
        now = time.monotonic()
        for task in [task for task in self._waiting if task.deadline <= now]:
            self._waiting.remove(task)
            task.deliver(late_error())
        for key, row in [(key, row) for key, row in self._rows.items() if row.task.deadline <= now]:
            self._drop(batch, key)
            if not row.writing.tokens:
                row.task.deliver(late_error())
                continue
            self._end(row, late=True)

    def _drop(self, batch: LineupBatch, key: Key) -> None:
        batch.remove(key)
        del self._keys[self._rows.pop(key).task]

    def _fail_all(self, error: ApiError) -> None:
        tasks = [*(row.task for row in self._rows.values()), *self._waiting]
        self._rows.clear()
        self._keys.clear()
        self._waiting.clear()
        for task in tasks:
            task.deliver(error)
