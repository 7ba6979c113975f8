"""Checks that a folder holds this run (same base, configuration and rows), and records the versions it is made with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import yaml

from mlx_loopai import __version__
from mlx_loopai.config import RunConfig, TrainPath, flatten, validate_config
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.files import write_whole
from mlx_loopai.language import tr
from mlx_loopai.memory.machine import Machine, package_versions
from mlx_loopai.models.gradient import actual_path
from mlx_loopai.runs.context import RunContext
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.listener import Listener
from mlx_loopai.training.checkpoint import complete_checkpoints


@dataclass(frozen=True)
class Identity:
    """What makes a run this one and no other: its configuration, its base and the rows it trains on."""

    config: RunConfig
    base_hash: str
    rows_digest: str

    @staticmethod
    def of(context: RunContext) -> Identity:
        """That of a run whose base is loaded. Raises: InputError when a data file cannot be read."""
        return Identity(context.config, context.loaded.base_hash, context.rows.digest)


def check_identity(run: RunDirectory, identity: Identity, resume: bool) -> None:
    """Make the folder this run's, or see that it already is.

    Raises: InputError when the folder holds a run and `resume` is off, or when base, configuration or rows differ from
    those it was started with (all differences are listed).
    """
    stored = _stored(run) if resume else None
    if not resume and (complete_checkpoints(run.checkpoints) or run.result):
        raise InputError(tr("{path}: holds a run; add `resume` to continue it, or give another `out`", path=run.path))
    if resume and stored is not None:
        _compare(run, identity, stored)
        return
    # A run that ended before its first checkpoint may have left files of another base or configuration.
    for leftover in (*run.measured, run.events, run.verdict, run.evaluation):
        leftover.unlink(missing_ok=True)
    written = {
        "base_hash": identity.base_hash,
        "config_digest": identity.config.digest(),
        "rows_digest": identity.rows_digest,
        "version": __version__,
    }
    write_whole(run.resolved, _as_run(identity.config).to_yaml())
    write_whole(run.identity, json.dumps(written, indent=2) + "\n")


def _stored(run: RunDirectory) -> dict[str, str] | None:
    """What the folder says its run is; None where it holds none. Raises: InputError when it is damaged."""
    if not run.identity.exists():
        if complete_checkpoints(run.checkpoints):
            raise InputError(
                tr("{path}: is missing, so nothing says what this run is; give another `out`", path=run.identity)
            )
        return None
    try:
        stored = json.loads(run.identity.read_text(encoding="utf-8"))
        found = {name: str(stored[name]) for name in ("base_hash", "config_digest")}
        return found | {"rows_digest": str(stored.get("rows_digest", ""))}  # an earlier release wrote none
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(tr("{path}: is damaged; restore it, or give another `out`", path=run.identity)) from None


def versions(machine: Machine, path: TrainPath) -> dict[str, str]:
    """What a run is made with here: versions of packages, the machine, and the path of its steps."""
    return package_versions() | {"machine": machine.name, "path": actual_path(path)}


def record_start(
    run: RunDirectory, made_with: dict[str, str], resumed_from: str | None, total_steps: int, listener: Listener
) -> None:
    """Record the event `start`; tell the listener what in `made_with` has changed since the run's last start."""
    starts = [event["versions"] for event in run.read_events() if event["event"] == "start" and "versions" in event]
    before = starts[-1] if starts else {}
    changed = [f"{name} {before[name]} -> {now}" for name, now in made_with.items() if before.get(name, now) != now]
    if changed:
        listener.notice(
            tr(
                "resumed on another machine, path or version: {changed}; its steps may differ from those before",
                changed=", ".join(changed),
            )
        )
    run.record("start", resumed_from=resumed_from, total_steps=total_steps, versions=made_with)


def _as_run(config: RunConfig) -> RunConfig:
    """`config` with the path that `train.path: auto` means here."""
    train = config.train.model_copy(update={"path": actual_path(config.train.path)})
    return config.model_copy(update={"train": train})


def _resolved(run: RunDirectory) -> Any:
    """The settings of the run. Raises: InputError when they cannot be read."""
    try:
        return yaml.safe_load(run.resolved.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            tr("{path}: cannot be read: {reason}; restore it, or give another `out`", path=run.resolved, reason=reason)
        ) from None


def _compare(run: RunDirectory, now: Identity, stored: dict[str, Any]) -> None:
    problems = []
    if stored["base_hash"] != now.base_hash:
        problems.append(
            tr(
                "the base is another one ({base_hash}, was {stored})",
                base_hash=now.base_hash[:12],
                stored=stored["base_hash"][:12],
            )
        )
    if stored["config_digest"] != now.config.digest():
        values = _resolved(run)
        if isinstance(values, dict):  # a run from before there was a budget has none
            values["forgetting"] = {"budget": 0.0, **(values.get("forgetting") or {})}
        was, asked = (flatten(_as_run(one)) for one in (validate_config(values, str(run.resolved)), now.config))
        problems += [
            tr("{name} is {now!r}, was {before!r}", name=name, now=asked[name], before=was[name])
            for name in asked
            if asked[name] != was[name]
        ]
    if not problems and stored["rows_digest"] not in ("", now.rows_digest):
        problems.append(tr("the rows of the data files are not those of before"))
    if not problems:
        return
    told = all_problems(problems)
    if run.adapter.exists() and stored["base_hash"] == now.base_hash:
        raise InputError(
            tr(
                "{path}: cannot resume: {problems}; use the same settings, or train on from its adapter in another "
                "`out` with lora.start={path}",
                path=run.path,
                problems=told,
            )
        )
    raise InputError(
        tr("{path}: cannot resume: {problems}; use the same settings or another `out`", path=run.path, problems=told)
    )
