"""Keeps what probes measured for later plans: one small file per machine, MLX version and model shape."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from mlx_loopai.files import cache_folder, digest_name, write_whole
from mlx_loopai.memory.machine import Machine
from mlx_loopai.memory.predict import Correction
from mlx_loopai.models.shape import ModelShape


def read_corrections(shape: ModelShape, machine: Machine) -> dict[bool, Correction]:
    """The corrections measured for `shape` on `machine` with the installed MLX, by whether steps use checkpointing."""
    try:
        found = json.loads(_file(shape, machine).read_text(encoding="utf-8"))
        return {kind == "checkpointing": Correction(float(factor), _source(machine)) for kind, factor in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}  # a missing or broken file only costs the refinement


def keep_factor(shape: ModelShape, machine: Machine, checkpointing: bool, factor: float) -> None:
    """Keep the ratio of measured to predicted bytes for steps with, or without, checkpointing."""
    kept = {
        "checkpointing" if kind else "plain": known.factor for kind, known in read_corrections(shape, machine).items()
    }
    kept["checkpointing" if checkpointing else "plain"] = factor
    path = _file(shape, machine)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(kept) + "\n")


def _source(machine: Machine) -> str:
    return f"steps of this model measured on this machine ({machine.name}, MLX {version('mlx')})"


def _file(shape: ModelShape, machine: Machine) -> Path:
    identity = [machine.name, machine.backend, machine.ram_bytes, version("mlx"), asdict(shape)]
    return cache_folder() / "memory" / f"{digest_name(identity, 24)}.json"
