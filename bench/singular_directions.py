"""Two ideas about singular directions, tried on the embedded model beside the recipe's own penalty.

    python bench/singular_directions.py --out DIR [--limit N] [--shares 0.25 0.5] [--strengths 0.01 0.1]

1. A guard that keeps the update off the top singular directions of every adapted weight: of W = U S V^T, with the first
   `share` of the directions, it weighs |U_k^T DW|^2 + |DW V_k|^2. OSFT (arXiv 2504.07097) freezes them; here a penalty
   pushes the low-rank update out of them.
2. After training: a singular vector of W + DW that is like none of W's is an intruder (arXiv 2410.21228, which counts
   cosines below 0.6 to 0.9 among the top vectors). Its part s u v^T is taken off the update.

Both are printed as retention and gain of the arms of `mlx-loopai compare`, with the demo's data and seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import yaml

import mlx_loopai as m
from mlx_loopai.config import PENALTIES, MeasuredOptions, load_config
from mlx_loopai.data.sources import DOMAIN
from mlx_loopai.evaluation.perplexity import nll
from mlx_loopai.evaluation.retention import retention
from mlx_loopai.evaluation.suites import default_suite, read_suite
from mlx_loopai.experiments.evaluate import measure_suite, well_known
from mlx_loopai.experiments.measurement import held_out_rows
from mlx_loopai.files import cache_folder
from mlx_loopai.guards.guard import Material, Penalty, register
from mlx_loopai.guards.measured import MeasuredGuard, over_layers, read_parts
from mlx_loopai.models.adapters import load_adapter, save_arrays
from mlx_loopai.models.lora import LoRALinear, adapter_disabled, dense_weight, lora_modules
from mlx_loopai.runs.context import RunContext
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.listener import Silent

GUARDED = Path(m.__file__).parent / "recipes" / "demo-guarded.yaml"
Directions = dict[str, tuple[mx.array, mx.array]]


class DirectionOptions(MeasuredOptions):
    """`directions`: `opening_share` is not read here; `share` is set by the script."""


class TopDirections(MeasuredGuard[Directions]):
    """The first `share` of the left (K, D_out) and right (K, D_in) singular vectors of every adapted weight."""

    share = 0.25

    def measure(self, material: Material) -> Directions:
        return {
            name: top_directions(dense_weight(layer.linear), self.share)
            for name, layer in lora_modules(material.base.model).items()
        }

    def made_by(self, material: Material) -> list[Any]:
        return [*super().made_by(material), self.share]

    def penalty(self, state: Directions) -> Penalty:
        return over_layers(dict.fromkeys(state, 1.0), lambda name, layer: energy_in(layer, *state[name]))

    def save(self, state: Directions, path: Path) -> None:
        sides = {"left": 0, "right": 1}
        save_arrays(path, {f"{side}.{name}": pair[at] for name, pair in state.items() for side, at in sides.items()})

    def load(self, path: Path) -> Directions:
        parts, _ = read_parts(path)
        return {name: (parts["left"][name], parts["right"][name]) for name in parts["left"]}


def top_directions(weight: mx.array, share: float) -> tuple[mx.array, mx.array]:
    """The singular vectors of the largest singular values of `weight` (D_out, D_in), as rows."""
    left, _, right = np.linalg.svd(np.array(weight.astype(mx.float32)), full_matrices=False)
    kept = max(1, round(share * len(right)))
    return mx.array(left[:, :kept].T), mx.array(right[:kept])


def energy_in(layer: LoRALinear, left: mx.array, right: mx.array) -> mx.array:
    """|U^T DW|^2 + |DW V|^2 of the update DW = s (A B)^T, without building it."""
    outputs, inputs = layer.lora_b @ left.T, right @ layer.lora_a
    return layer.scale**2 * (mx.square(layer.lora_a @ outputs).sum() + mx.square(inputs @ layer.lora_b).sum())


def remove_intruders(layer: LoRALinear, likeness: float, top: int) -> int:
    """Take from the update of `layer` those of its `top` singular parts that resemble no vector of the base.

    likeness: least cosine with a left singular vector of the base that a part must have to stay. Gives how many went.
    """
    weight = np.array(dense_weight(layer.linear).astype(mx.float32))
    update = np.array((layer.scale * (layer.lora_a @ layer.lora_b)).T)
    known = np.linalg.svd(weight, full_matrices=False)[0]
    left, sizes, right = np.linalg.svd(weight + update, full_matrices=False)
    cosines = np.abs(known.T @ left[:, :top]).max(axis=0)
    intruders = np.flatnonzero(cosines < likeness)
    parts = (left[:, intruders] * sizes[intruders]) @ right[intruders]
    layer.lora_a = mx.array((update - parts).T / layer.scale)
    layer.lora_b = mx.eye(len(weight))
    return len(intruders)


def trained_arms(out: Path, shares: list[float], strengths: list[float], limit: int | None) -> list[dict[str, Any]]:
    """The demo's rows with rehearsal alone, with the recipe's penalty, and with that on top singular directions."""
    PENALTIES["directions"] = DirectionOptions
    guard = register("directions")(TopDirections)
    found = []
    for share in shares:
        guard.share = share
        arms = {f"directions-{strength:g}": {"kind": "directions", "strength": strength} for strength in strengths}
        if share == shares[0]:
            arms = {"rehearsal": {"kind": "none"}, "sketch": {}} | arms
        comparison = m.compare(str(GUARDED), out / f"share-{share:g}", recipes(out, arms), limit=limit)
        found += [
            {"arm": name, "share": share, "GR": arm.retention, "worst": arm.retention_min, "DG": arm.gain}
            for name, arm in comparison.arms.items()
            if share == shares[0] or name.startswith("directions")
        ]
    return found


def recipes(out: Path, arms: dict[str, dict[str, Any]]) -> list[str]:
    """A recipe file for each arm: the demo's guarded one with another penalty."""
    paths = []
    for name, penalty in arms.items():
        values = yaml.safe_load(GUARDED.read_text(encoding="utf-8"))
        values["penalty"] |= penalty
        paths.append(out / f"{name}.yaml")
        paths[-1].write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return [str(path) for path in paths]


def without_intruders(run: Path, limit: int | None) -> list[dict[str, Any]]:
    """Retention and nats a token on held-out rows of a run's adapter, whole and without its intruders."""
    config = load_config(RunDirectory(run).resolved)
    context = RunContext.open(config, RunDirectory(run, writes=False), Silent())
    loaded, rows = context.loaded, context.encoded(held_out_rows(config), DOMAIN)
    tasks = read_suite(default_suite(loaded.path), limit)
    with adapter_disabled(loaded.model):
        base = measure_suite(loaded, context.encoder, tasks, Silent(), "base", cache_folder())
    tasks, base = well_known(tasks, base)
    found = []
    for likeness in (0.0, 0.3, 0.6, 0.9):
        load_adapter(loaded.model, run / "adapter")
        gone = sum(over(loaded.model, lambda layer, least=likeness: remove_intruders(layer, least, 10)))
        kept = retention(base.tasks, measure_suite(loaded, context.encoder, tasks, Silent(), "tuned").tasks)
        found.append(
            {
                "run": run.name,
                "likeness": likeness,
                "removed": gone,
                "GR": kept.mean,
                "worst": kept.minimum,
                "NLL": nll(loaded.model, rows).nll_per_token,
            }
        )
    return found


def over(model: nn.Module, work: Callable[[LoRALinear], int]) -> list[int]:
    """What `work` gives for every adapted layer."""
    return [work(layer) for layer in lora_modules(model).values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.01, 0.1])
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for row in trained_arms(given.out, given.shares, given.strengths, given.limit):
        print(json.dumps(row), flush=True)  # noqa: T201
    first = given.out / f"share-{given.shares[0]:g}"
    for run in sorted(path.parent for path in first.rglob("adapter") if path.parent.name[:5] in ("plain", "sketc")):
        for row in without_intruders(run, given.limit):
            print(json.dumps(row), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
