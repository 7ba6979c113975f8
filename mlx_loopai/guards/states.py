"""Where a guard's state comes from: the run's own file, an earlier run's, or a measurement kept for later runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.errors import InputError
from mlx_loopai.guards.guard import Guard, Penalty, State, guard_of
from mlx_loopai.guards.measured import measuring_batches
from mlx_loopai.language import tr
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.runs.artifact_cache import fetch, keep, kept_path

if TYPE_CHECKING:
    from mlx_loopai.runs.context import RunContext


def state_of(
    guard: Guard[State], context: RunContext, path: Path, rows: Callable[[], Sequence[MicroBatch]] = tuple
) -> State:
    """The state of `guard` for this run, which then lies at `path`, a file of the run's folder.

    `rows` gives the general rows to measure on; it is called only where the run has no such file yet.
    """
    if not path.exists():
        general = rows()
        kept = kept_path(path.stem, context.loaded, guard.made_by(context, general), path.suffix)
        if fetch(kept, path):
            context.listener.notice(tr("{stem}: taken from an earlier run ({kept})", stem=path.stem, kept=kept))
        else:
            guard.save(guard.measure(context, general), path)
            keep(path, kept)
    return guard.load(path)


def measured_penalty(context: RunContext, rehearsal: Sequence[TokenRow], batch_tokens: int = 0) -> Penalty | None:
    """The penalty of the run's guard, measured on the rehearsal rows, or else on the general records.

    The adapter is put where the guard wants training to start. batch_tokens: most padded tokens of a batch of several
    rows; 0: as many rows as batches have by default, however long.

    Raises: InputError when the guard needs general rows and there are none.
    """
    config, guard = context.config, guard_of(context.config)
    if not config.measures_importance:
        return guard.penalty(None)

    def general() -> Sequence[MicroBatch]:
        rows = list(rehearsal or context.general_rows)
        if not rows:
            raise InputError(tr("penalty: importance needs general rows; give `general: FILE` or replay.source: self"))
        return measuring_batches(rows[: config.penalty.sequences], batch_tokens)

    state = state_of(guard, context, context.directory.importance, general)
    guard.place(context.model, state)
    return guard.penalty(state)
