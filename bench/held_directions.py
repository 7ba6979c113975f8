"""What two guards would earn on nano: an update held off singular directions, and intruder dimensions removed.

    python bench/held_directions.py --out DIR --arm plain --energies 0,0.5 --rates 1e-3 --seeds 0,1,2 [--points P ...]

Trains the arm of `compare` with every share of energy (lora.held_energy), rate and seed, and appends a line of JSON to
DIR/results.jsonl for each and for every point P of it: `scale=S` keeps S of the update, `intruders=KEPT,EPSILON,TOP,
whole|update` scales its intruder dimensions. A run that is in DIR is not trained again. Retention is over 60 questions
a probe.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import mlx_loopai  # noqa: F401  (first of all: it gives MLX the fast BLAS)

# isort: split
import click
import mlx.nn as nn
import yaml

from mlx_loopai.config import load_config
from mlx_loopai.config.shipped import shipped_recipe
from mlx_loopai.evaluation.retention import retention
from mlx_loopai.experiments.arms import arm_config
from mlx_loopai.experiments.comparison import measure_base, trained_model
from mlx_loopai.experiments.intruders import Removal, count, removed
from mlx_loopai.experiments.measurement import Measure, Measurement, domain_losses, measure_for, measure_model
from mlx_loopai.experiments.rescaling import Rescaling, rescaled
from mlx_loopai.runs.context import RunContext
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.run import read_run
from mlx_loopai.runs.listener import Silent
from mlx_loopai.training.run import train_in

RECIPE = shipped_recipe("demo-guarded")
COUNTED = [(10, 0.5), (10, 0.7), (32, 0.5), (32, 0.7)]  # top, epsilon


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--arm", default="plain")
@click.option("--energies", default="0")
@click.option("--rates", default="1e-3")
@click.option("--seeds", default="0")
@click.option("--epochs", default="0.3333333", help="Of demo-guarded.yaml; 1: the whole demonstration.")
@click.option("--set", "settings", multiple=True, help="Settings of the arm, such as forgetting.budget=0.01.")
@click.option("--points", multiple=True)
@click.option("--no-suite", is_flag=True, help="Only the domain score, to choose a rate.")
def main(out: Path, arm: str, energies: str, rates: str, seeds: str, points: tuple[str, ...], **options: Any) -> None:
    """Train and measure."""
    recipe = load_config(RECIPE, (f"train.epochs={options['epochs']}",))
    asked = measure_for(recipe, None, 60)
    measure = Measure(asked.tasks, asked.domain)
    for energy in energies.split(","):
        for rate in rates.split(","):
            for seed in seeds.split(","):
                changes = (f"lora.held_energy={energy}", f"train.learning_rate={rate}", f"train.seed={seed}")
                values = yaml.safe_load(arm_config(recipe, arm).to_yaml())
                config = load_config(None, (*changes, *options["settings"]), values)
                name = "-".join([arm, energy, rate, seed, *options["settings"]]).replace("/", "_")
                context = RunContext.open(config, RunDirectory(out / name), Silent())
                for row in _measured(context, measure, points, not options["no_suite"]):
                    told = {"arm": arm, "energy": energy, "rate": rate, "seed": seed, "epochs": options["epochs"]}
                    told |= {"settings": " ".join(options["settings"])} | row
                    with (out / "results.jsonl").open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(told) + "\n")
                    click.echo(json.dumps(told))


def _measured(context: RunContext, measure: Measure, points: tuple[str, ...], suite: bool) -> Iterator[dict[str, Any]]:
    started = time.perf_counter()
    if not context.directory.adapter.exists():
        train_in(context, resume=context.directory.identity.exists())
    train_s = time.perf_counter() - started
    loaded = trained_model(context)
    if not suite:
        losses = domain_losses(loaded, context.config, measure.domain, context.directory.path)
        yield {"point": "whole", "domain": -losses.nll_per_token, "train_s": train_s}
        return
    with_counts = {f"intruders_top{top}_{epsilon}": count(loaded.model, top, epsilon) for top, epsilon in COUNTED}
    base = measure_base(context, measure)
    loaded = trained_model(context)
    summary = read_run(context.directory).summary
    assert summary is not None
    for point in ("", *points):
        started = time.perf_counter()
        folder = context.directory.path / "points" / (point or "whole")
        with _applied(loaded.model, point):
            found = measure_model(loaded, context.config, measure, Silent(), point, folder)
        row = {"point": point or "whole", **_scores(base, found), "measured_s": time.perf_counter() - started}
        if not point:
            row |= with_counts | {"train_s": train_s, "spent": summary.budget_spent, "scale": summary.update_scale}
        yield row


def _applied(model: nn.Module, point: str) -> AbstractContextManager[None]:
    kind, _, value = point.partition("=")
    if kind == "scale":
        return rescaled(model, Rescaling(float(value), float(value)))
    if kind == "intruders":
        kept, epsilon, top, form = value.split(",")
        return removed(model, Removal(float(kept), float(epsilon), int(top), form == "whole"))
    return nullcontext()


def _scores(base: Measurement, tuned: Measurement) -> dict[str, Any]:
    kept = retention(base.general.tasks, tuned.general.tasks)
    return {
        "domain": -tuned.domain.nll_per_token,
        "base_domain": -base.domain.nll_per_token,
        "kept": kept.mean,
        "kept_min": kept.minimum,
        "tasks": {name: task.capped for name, task in kept.per_task.items()},
    }


if __name__ == "__main__":
    main()
