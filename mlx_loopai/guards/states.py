"""Gets a guard's state: from the run's own file, from an earlier run's, or by a measurement kept for later runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mlx_loopai.config import PenaltyOptions
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.errors import InputError
from mlx_loopai.files import is_sealed, require_seal, seal
from mlx_loopai.guards.guard import Guard, Material, State
from mlx_loopai.guards.measured import measuring_batches
from mlx_loopai.language import tr
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.runs.artifact_cache import fetch, keep, kept_path


def state_of(guard: Guard[State], path: Path, material: Callable[[], Material]) -> State:
    """The state of `guard` for this run, which then lies at `path`, a file of the run's folder.

    `material` is asked for only where the run has no such file yet. Raises: InputError when the run's file is not what
    was written.
    """
    if not path.exists():
        found = material()
        kept = kept_path(path.stem, found.base, guard.made_by(found), path.suffix)
        if kept.exists() and not is_sealed(kept):
            found.listener.notice(tr("{kept}: changed or damaged since it was written; it is made anew", kept=kept))
        if fetch(kept, path):
            found.listener.notice(tr("{stem}: taken from an earlier run ({kept})", stem=tr(path.stem), kept=kept))
        else:
            guard.save(guard.measure(found), path)
            seal(path)
            keep(path, kept)
    require_seal(path)
    return guard.load(path)


def measuring_rows(rows: Sequence[TokenRow], options: PenaltyOptions, batch_tokens: int = 0) -> Sequence[MicroBatch]:
    """The first `penalty.sequences` of the general `rows`, in batches.

    batch_tokens: most padded tokens of a batch of several rows; 0: the default number of rows, however long.
    Raises: InputError when there are no rows.
    """
    if not rows:
        raise InputError(tr("penalty: importance needs general rows; give `general: FILE` or replay.source: self"))
    return measuring_batches(rows[: options.sequences], batch_tokens)
