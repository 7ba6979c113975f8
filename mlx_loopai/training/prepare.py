"""What a run needs before its first step: rows, rehearsal, importance, and proof that it is still the same run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from mlx_loopai import __version__
from mlx_loopai.config import PenaltyOptions, RunConfig, flatten, validate_config
from mlx_loopai.data.batches import choose_widths
from mlx_loopai.data.records import Message
from mlx_loopai.data.sources import general_records, read_source
from mlx_loopai.data.tokens import REHEARSAL, ChatEncoder, TokenRow, encode_records
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.files import write_whole
from mlx_loopai.generation.engine import BATCH_ROWS
from mlx_loopai.guards.base_states import with_base_states
from mlx_loopai.guards.dense_importance import DenseImportance, measure_fisher
from mlx_loopai.guards.importance import Importance, measure_importance
from mlx_loopai.guards.path_integral import PathForm, measure_path
from mlx_loopai.guards.penalties import read_importance
from mlx_loopai.guards.rehearsal import Rehearsal, general_prompts, self_rehearsal
from mlx_loopai.memory.machine import Machine, package_versions
from mlx_loopai.models.gradient import actual_path
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.runs.artifact_cache import fetch, keep, kept_path, rows_digest
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.listener import Listener
from mlx_loopai.training.checkpoint import complete_checkpoints
from mlx_loopai.training.objective import Objective
from mlx_loopai.training.phases import batch_of
from mlx_loopai.training.selection import select_tokens

IMPORTANCE_ROWS_PER_BATCH = 8
FIXED_ROWS = 32


@dataclass(frozen=True)
class Rows:
    """Encoded rows by source name, and the held-out ones."""

    sources: dict[str, list[TokenRow]]
    validation: list[TokenRow]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(len(row.ids) for rows in (*self.sources.values(), self.validation) for row in rows)

    @property
    def lengths(self) -> list[int]:
        """Tokens of every training row, in the order of the files."""
        return [len(row.ids) for rows in self.sources.values() for row in rows]

    @property
    def fixed(self) -> list[TokenRow]:
        """The rows on which a run's loss is reported before and after, whatever the order of training."""
        found = [row for name in sorted(self.sources) for row in self.sources[name]]
        return sorted(found, key=lambda row: hashlib.sha256(row.ids.tobytes()).digest())[:FIXED_ROWS]

    @property
    def digest(self) -> str:
        """Identity of everything read: a run resumed on edited files would go on in the middle of other data."""
        found = hashlib.sha256()
        for name, rows in [*sorted(self.sources.items()), ("", self.validation)]:
            found.update(f"{name}:{len(rows)}".encode())
            for row in rows:
                found.update(row.ids.tobytes() + row.supervised.tobytes())
        return found.hexdigest()


def check_identity(run: RunDirectory, config: RunConfig, loaded: LoadedModel, rows: Rows, resume: bool) -> None:
    """Make `run` this configuration's folder, or see that it already is.

    Raises: InputError when the folder holds a run and `resume` is off, or when base, configuration or rows differ from
    those it was started with (all differences are listed).
    """
    stored = json.loads(run.identity.read_text(encoding="utf-8")) if run.identity.exists() else None
    if not resume and (complete_checkpoints(run.checkpoints) or run.adapter.exists()):
        raise InputError(f"{run.path}: holds a run; add `resume` to go on with it, or give another `out`")
    if resume and stored is not None:
        _compare(run, config, loaded, rows, stored)
        return
    # What a try that ended before its first checkpoint left here may be of another base or configuration.
    for leftover in (run.rehearsal, run.importance, run.events):
        leftover.unlink(missing_ok=True)
    identity = {"base_hash": loaded.base_hash, "config_digest": config.digest(), "rows_digest": rows.digest}
    write_whole(run.resolved, _as_run(config).to_yaml())
    write_whole(run.identity, json.dumps(identity | {"version": __version__}, indent=2) + "\n")


def record_start(
    run: RunDirectory,
    config: RunConfig,
    machine: Machine,
    listener: Listener,
    resumed_from: str | None,
    total_steps: int,
) -> None:
    """Record the event `start` with what the run is made with; say what is no longer as at its last start."""
    made_with = package_versions() | {"machine": machine.name, "path": actual_path(config.train.path)}
    starts = [event["versions"] for event in run.read_events() if event["event"] == "start" and "versions" in event]
    before = starts[-1] if starts else {}
    changed = [f"{name} {before[name]} -> {now}" for name, now in made_with.items() if before.get(name, now) != now]
    if changed:
        listener.notice(
            f"resumed on another machine, path or version: {', '.join(changed)}; its steps may differ from those before"
        )
    run.record("start", resumed_from=resumed_from, total_steps=total_steps, versions=made_with)


def read_rows(config: RunConfig, encoder: ChatEncoder, listener: Listener) -> Rows:
    """Every source and the validation rows, encoded; long ones divided with a notice.

    Raises: InputError when no data is named or a file cannot be read.
    """
    if not config.sources:
        raise InputError("no training data; give `data` FILE or a recipe with `sources`")
    encoded = {}
    for name, source in config.sources.items():
        rows, notice = encode_records(encoder, read_source(source.path, source.category), config.train.max_tokens)
        encoded[name] = rows
        if notice:
            listener.notice(f"{name}: {notice}")
    general_records(config)  # not needed yet, but a wrong path should be said before the model is loaded
    held_out = read_source(config.validation, "domain") if config.validation else []
    validation, _ = encode_records(encoder, held_out, config.train.max_tokens)
    return Rows(encoded, validation)


def rehearsal_rows(
    run: RunDirectory,
    config: RunConfig,
    loaded: LoadedModel,
    encoder: ChatEncoder,
    listener: Listener,
    batch_rows: int = BATCH_ROWS,
) -> list[TokenRow]:
    """The rows that phases mix in: none, the general rows as they are, or the base's own answers (made once a run).

    With the base's states at their targets where the objective needs them. batch_rows: prompts answered together.
    """
    rows = _rehearsal_rows(run, config, loaded, encoder, listener, batch_rows)
    if not (rows and Objective.of(config.replay).rehearsal_divergence):
        return rows
    listener.stage("the base on rehearsal", len(rows))
    return with_base_states(loaded.model, rows, run.path, listener.advance)


def _rehearsal_rows(
    run: RunDirectory,
    config: RunConfig,
    loaded: LoadedModel,
    encoder: ChatEncoder,
    listener: Listener,
    batch_rows: int,
) -> list[TokenRow]:
    if not config.needs_rehearsal:
        return []
    records = general_records(config)
    if config.replay.source == "records":
        if not records:
            raise InputError("replay.source: records needs `general: FILE`; or use replay.source: self")
        rows = encode_records(encoder, records, config.train.max_tokens)[0]
        return [replace(row, category=REHEARSAL) for row in rows]
    if run.rehearsal.exists():
        return list(Rehearsal.load(run.rehearsal).rows)
    if not records and config.replay.source == "self":
        listener.notice("general: none given; the embedded prompt set serves for rehearsal")
    prompts = general_prompts(records, config.replay, config.train.seed)
    prompt_ids = [encoder.prompt_ids([Message("user", prompt)]) for prompt in prompts]
    made_by = [config.replay.answer_tokens, config.replay.temperature, config.train.seed]
    kept = kept_path("rehearsal", loaded, [*made_by, prompt_ids], ".jsonl")
    if fetch(kept, run.rehearsal):
        listener.notice(f"rehearsal: the base's answers of an earlier run are used ({kept})")
        return list(Rehearsal.load(run.rehearsal).rows)
    listener.stage("rehearsal", len(prompts))
    rehearsal = self_rehearsal(
        loaded,
        encoder,
        prompts,
        config.replay,
        config.train.seed,
        lambda answered, _total: listener.advance(answered),
        batch_rows or BATCH_ROWS,
    )
    rehearsal.save(run.rehearsal)
    keep(run.rehearsal, kept)
    if rehearsal.dropped:
        listener.notice(
            f"rehearsal: {rehearsal.dropped} of {len(prompts)} answers looped or were empty and are left out"
        )
    return list(rehearsal.rows)


def selected_rows(config: RunConfig, loaded: LoadedModel, rows: Rows, listener: Listener) -> dict[str, list[TokenRow]]:
    """The training rows by source, their tokens weighted where `selection` says so; before an adapter is put on."""
    if config.selection.kind == "none":
        return rows.sources
    found = {}
    for name, source in rows.sources.items():
        listener.stage(f"selection in {name}", len(source))
        found[name] = select_tokens(loaded.model, source, config.selection, listener.advance)
    return found


def importance_of_base(
    run: RunDirectory,
    config: RunConfig,
    loaded: LoadedModel,
    encoder: ChatEncoder,
    rehearsal: Sequence[TokenRow],
    listener: Listener,
    batch_tokens: int = 0,
) -> Importance | DenseImportance:
    """Importance on the rehearsal rows, or else on the general records; measured once for a base, rows and options.

    Where the kind goes on with the adapter that it measured with, the adapter is put there.

    batch_tokens: most padded tokens of a batch of several rows; 0: eight rows, however long.

    Raises: InputError when there is neither.
    """
    if not run.importance.exists():
        _find_importance(run, config, loaded, encoder, rehearsal, listener, batch_tokens)
    importance = read_importance(run.importance)
    if isinstance(importance, DenseImportance):
        importance.place(loaded.model)
    return importance


def _find_importance(
    run: RunDirectory,
    config: RunConfig,
    loaded: LoadedModel,
    encoder: ChatEncoder,
    rehearsal: Sequence[TokenRow],
    listener: Listener,
    batch_tokens: int,
) -> None:
    """Write the run's importance file: one of an earlier run, or a new one, which is kept for the next."""
    rows = list(rehearsal) or encode_records(encoder, general_records(config), config.train.max_tokens)[0]
    if not rows:
        raise InputError("penalty: importance needs general rows; give `general: FILE` or replay.source: self")
    rows = sorted(rows[: config.penalty.sequences], key=lambda row: len(row.ids))
    options = config.penalty.model_dump(exclude={"strength"})
    made_by = [options, config.lora.model_dump(), config.train.seed, rows_digest(rows)]
    kept = kept_path("importance", loaded, made_by, ".safetensors")
    if fetch(kept, run.importance):
        listener.notice(f"importance: that of an earlier run is used ({kept})")
        return
    widths = choose_widths([len(row.ids) for row in rows])
    height = (
        min(IMPORTANCE_ROWS_PER_BATCH, max(1, batch_tokens // widths[-1]))
        if batch_tokens
        else IMPORTANCE_ROWS_PER_BATCH
    )
    batches = [batch_of(rows[start : start + height], widths) for start in range(0, len(rows), height)]
    _measure(loaded, config.penalty, batches, listener).save(run.importance)
    keep(run.importance, kept)


def _measure(
    loaded: LoadedModel, penalty: PenaltyOptions, batches: list[MicroBatch], listener: Listener
) -> Importance | DenseImportance:
    """Importance of the penalty's kind."""
    model, temperature = loaded.model, penalty.temperature
    in_a_run = penalty.kind in ("hierarchical", "hlora")
    listener.stage("importance", len(batches) * (penalty.path.epochs if in_a_run else 1))
    if in_a_run:
        form = PathForm.of(penalty.kind, penalty.path)
        return measure_path(model, batches, form, penalty.path, temperature, listener.advance)
    if penalty.kind == "fisher":
        return measure_fisher(model, batches, temperature, listener.advance)
    activations = penalty.activations if penalty.kind == "sketch" else 0
    return measure_importance(model, batches, temperature, listener.advance, activations, penalty.opening_share)


def _as_run(config: RunConfig) -> RunConfig:
    """`config` with the path that `train.path: auto` means here."""
    train = config.train.model_copy(update={"path": actual_path(config.train.path)})
    return config.model_copy(update={"train": train})


def _compare(run: RunDirectory, config: RunConfig, loaded: LoadedModel, rows: Rows, stored: dict[str, Any]) -> None:
    problems = []
    if stored["base_hash"] != loaded.base_hash:
        problems.append(f"the base is another one ({loaded.base_hash[:12]}, was {stored['base_hash'][:12]})")
    if stored["config_digest"] != config.digest():
        values = yaml.safe_load(run.resolved.read_text(encoding="utf-8"))
        before, now = (flatten(_as_run(one)) for one in (validate_config(values, str(run.resolved)), config))
        problems += [f"{name} is {now[name]!r}, was {before[name]!r}" for name in now if now[name] != before[name]]
    elif stored.get("rows_digest", rows.digest) != rows.digest:
        problems.append("the rows of the data files are not those of before")
    if problems:
        raise InputError(f"{run.path}: cannot resume: {all_problems(problems)}; use the same settings or another `out`")
