"""One copy of a base's weights that serves several models by name: the base itself, and each of its adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from mlx_loopai.errors import InputError
from mlx_loopai.generation.batch import Batch, RowPiece
from mlx_loopai.generation.engine import load_draft
from mlx_loopai.generation.request import Request
from mlx_loopai.generation.session import AdapterWhen, Session, open_base, with_adapter
from mlx_loopai.generation.switch import SWITCH_FILE, Switch
from mlx_loopai.language import tr
from mlx_loopai.models.learnt import find_learnt
from mlx_loopai.models.load import LoadedModel, weight_bytes
from mlx_loopai.models.updated_linear import UpdatedLinear, exchange_updates, remove_updates, updated_modules
from mlx_loopai.models.vision.projector import projector_of


@dataclass(frozen=True, eq=False)
class Worn:
    """What an adapter puts on a model: layers by name, and parameters of a projector; None: the base's projector."""

    layers: Mapping[str, UpdatedLinear]
    projector: Mapping[str, Any] | None


class Lineup:
    """The sessions of a base and of its adapters by name: the default first, the base last.

    Use it from the thread that owns MLX.
    """

    def __init__(
        self,
        sessions: Mapping[str, Session],
        adapters: Mapping[str, Worn],
        draft: LoadedModel | None = None,
        switches: Mapping[str, Switch] | None = None,
    ) -> None:
        """`adapters`: what each puts on the model, by name; the model comes without any. draft: see `Batch`.

        switches: by name, for the adapters that have one, whether or not their sessions use it.
        """
        self.sessions, self._adapters, self.draft = dict(sessions), adapters, draft
        self.switches = dict(switches or {})
        *_, self.base = self.sessions
        self.loaded = self.sessions[self.base].loaded
        self._on = self.base

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.sessions)

    @property
    def weight_bytes(self) -> int:
        """Of the base and of a draft model; adapters are small beside them."""
        models = [one.model for one in (self.loaded, self.draft) if one is not None]
        return sum(map(weight_bytes, models))

    def session(self, name: str, when: AdapterWhen | None = None) -> Session:
        """The session that answers as `name`. when: for this answer only; None: as the lineup was opened."""
        found = self.sessions[name]
        if when is None or found.adapter is None:
            return found
        return replace(found, switch=self.switches[name] if when == "auto" else None)

    def reader(self, name: str, request: Request) -> str:
        """Who answers a request to `name`: that adapter, or the base when the adapter's switch chose it."""
        return name if request.adapter else self.base

    def switch_to(self, name: str) -> None:
        """From now on the model is the base, or the base with the adapter `name`."""
        if name != self._on:
            model, nothing = self.loaded.model, Worn({}, None)
            before, after = (self._adapters.get(one, nothing) for one in (self._on, name))
            exchange_updates(model, before.layers, after.layers)
            projector = projector_of(model)
            if projector is not None:
                projector.restore()
                projector.update(after.projector or {})
            self._on = name


def open_lineup(
    model: str,
    called: str,
    adapters: Sequence[Path],
    system_prompt: str | None = None,
    adapter_when: AdapterWhen = "always",
    draft_model: str | None = None,
) -> Lineup:
    """Load `model` once and every one of `adapters`; the base answers as `called`, an adapter as `called:its name`.

    Raises: InputError as `open_session` and `load_draft`, and when two adapters have the same name.
    """
    folders = [find_learnt(adapter) for adapter in adapters]
    named = {f"{called}:{adapter_name(folder)}": folder for folder in folders}
    if len(named) < len(folders):
        listed = ", ".join(map(str, adapters))
        raise InputError(
            tr("`adapter` {listed}: two have the same name, by which clients choose; rename a folder", listed=listed)
        )
    base = open_base(model, folders, "auto", adapter_when)
    sessions, worn, switches = {}, {}, {}
    for name, folder in named.items():
        sessions[name] = with_adapter(base, folder, system_prompt, adapter_when)
        switch = sessions[name].switch or _switch_of(folder, base.loaded)
        if switch is not None:
            switches[name] = switch
        projector = projector_of(base.loaded.model)
        worn[name] = Worn(updated_modules(base.loaded.model), None if projector is None else projector.parameters())
        remove_updates(base.loaded.model)
    bare = Session(base.loaded, system_prompt=system_prompt or "", adapter=None, tools=base.tools)
    draft = None if draft_model is None else load_draft(draft_model, base.loaded)
    return Lineup({**sessions, called: bare}, worn, draft, switches)


def _switch_of(folder: Path, loaded: LoadedModel) -> Switch | None:
    """The switch of an adapter that answers always unless a request asks otherwise; None where it has no sound one."""
    if not (folder / SWITCH_FILE).is_file():
        return None
    with suppress(InputError):
        return Switch.load(folder, loaded.model.model.norm.weight.shape[0])
    return None


def adapter_name(folder: Path) -> str:
    """What an adapter's folder is called: after its run, where it is a run's own."""
    path = folder.resolve()
    return path.parent.name if path.name in ("adapter", "model") else path.name


# Identifies an answer: who writes it, and its key in that one's batch.
Key = tuple[str, int]
# Called when an answer has ended, with the name of who read its tokens, the tokens, and the cache that holds them.
OnRead = Callable[[str, list[int], list[Any]], None]


class LineupBatch:
    """Answers in the making, one batch for the base and one for each adapter; a step runs them one after another."""

    def __init__(self, lineup: Lineup, batch_rows: int, on_read: OnRead) -> None:
        self._lineup, self._batch_rows, self._on_read = lineup, batch_rows, on_read
        self._batches: dict[str, Batch] = {}
        self._open = ExitStack()

    def __enter__(self) -> LineupBatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def add(self, reader: str, request: Request) -> Key:
        """Let an answer join at the next step. Raises: InputError for an empty prompt."""
        if reader not in self._batches:
            self._batches[reader] = self._open.enter_context(self._batch(reader))
        if request.pictures is not None:
            self._lineup.switch_to(reader)  # a batch reads them at once
        return reader, self._batches[reader].add(request)

    def remove(self, key: Key) -> None:
        """Drop an answer; it may have ended already."""
        reader, own = key
        self._batches[reader].remove(own)

    def step(self) -> list[tuple[Key, RowPiece]]:
        """The next token of each answer that is being written: none while prompts are read first."""
        found = []
        for reader, batch in self._batches.items():
            if len(batch):
                self._lineup.switch_to(reader)
                found += [((reader, piece.key), piece) for piece in batch.step()]
        return found

    def _batch(self, reader: str) -> Batch:
        def on_read(_: Request, tokens: list[int], cache: list[Any]) -> None:
            self._on_read(reader, tokens, cache)

        return Batch(self._lineup.loaded, self._batch_rows, on_read, self._lineup.draft)
