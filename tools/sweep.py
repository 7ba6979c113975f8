"""Sweeps the demonstration's options before its probes are looked at, and writes the table of docs/experiments.md.

    python -m tools.sweep run plain --set train.learning_rate=1e-3,2e-3 --seeds 0,1
    python -m tools.sweep table

Options are chosen by the domain score and by *open* questions: facts and wordings that no probe holds and that are not
among the rehearsal prompts either. Probe items never enter here.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from mlx_loopai.config import RunConfig, load_config
from mlx_loopai.data.samples import corpus, skills
from mlx_loopai.data.samples.skills import Item
from mlx_loopai.evaluation.retention import retention
from mlx_loopai.evaluation.skill_judge import SKILL_JUDGE
from mlx_loopai.evaluation.tasks import Asked
from mlx_loopai.experiments.comparison import run_arm
from mlx_loopai.experiments.measurement import EMBEDDED_HELD_OUT, Measure, Measurement, measure_model
from mlx_loopai.files import cache_folder
from mlx_loopai.models.load import load_model
from mlx_loopai.runs.context import RunContext
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.comparison import BASE
from mlx_loopai.runs.listener import Silent
from tools.doc_markers import with_marked
from tools.pretrain import EPOCHS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "demo-sweep.jsonl"
DOCUMENT = ROOT / "docs" / "experiments.md"
OPEN_ITEMS = 60
_COLUMNS = (
    "arm",
    "settings",
    "seed",
    "domain_score",
    "open_retention",
    "open_retention_min",
    "open_worst",
    "train_s",
    "base_epochs",
    "commit",
)


def open_tasks(count: int = OPEN_ITEMS) -> list[Asked[Item]]:
    """Tasks made of open items that are not rehearsal prompts: to choose options without seeing the real probes."""
    rehearsed = {message.content for record in corpus.sample("general") for message in record.messages}
    found = []
    for skill in skills.SKILLS:
        items = [item for item in skills.items(skill, probe=False) if item.prompt not in rehearsed]
        chosen = tuple(random.Random(20265).sample(items, min(count, len(items))))
        found.append(Asked.of(skill, chosen, SKILL_JUDGE))
    return found


def table(results: list[dict[str, Any]]) -> str:
    """The Markdown table of the sweep's results, ordered by arm and settings."""
    ordered = sorted(results, key=lambda row: (row["base_epochs"], row["arm"], row["settings"], row["seed"]))
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS)]
    lines += ["| " + " | ".join(_cell(row.get(name, "–")) for name in _COLUMNS) + " |" for row in ordered]
    return "\n".join(lines)


def with_table(document: str, results: list[dict[str, Any]]) -> str:
    """`document` with the table of `results`. Raises: InputError without its markers."""
    return with_marked(document, "sweep table", table(results), DOCUMENT)


def read_results() -> list[dict[str, Any]]:
    """The committed results, in the order in which they were measured."""
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]


@click.group()
def main() -> None:
    """Choose the demonstration's options by measurement."""


@main.command("table")
def write_table() -> None:
    """Write the table of docs/experiments.md from the result file."""
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8"), read_results()), encoding="utf-8")


@main.command("run")
@click.argument("arm", type=click.Choice(["plain", "guarded"]))
@click.option("--set", "grid", multiple=True, metavar="NAME=V1,V2", help="Values to try; several give their product.")
@click.option("--seeds", default="0", show_default=True)
@click.option("--model", default="nano", show_default=True)
def run(arm: str, grid: tuple[str, ...], seeds: str, model: str) -> None:
    """Train the demonstration's ARM with every combination of --set and append what it scored."""
    measure = Measure(open_tasks(), EMBEDDED_HELD_OUT)
    recipe = ROOT / "mlx_loopai" / "recipes" / f"demo-{arm}.yaml"
    loaded = load_model(model)
    listener = Silent()
    base = measure_model(loaded, RunConfig(model=model), measure, listener, BASE, cache_folder())
    choices = [
        [f"{name}={value}" for value in values.split(",")] for name, _, values in (g.partition("=") for g in grid)
    ]
    for settings in itertools.product(*choices):
        for seed in seeds.split(","):
            config = load_config(recipe, (*settings, f"train.seed={seed}", f"model={model}"))
            with tempfile.TemporaryDirectory() as folder:
                context = RunContext.open(config, RunDirectory(Path(folder) / "run"), listener)
                done = run_arm(arm, context, measure)
            row = {"arm": arm, "settings": " ".join(settings), "seed": int(seed)}
            row |= _scores(base, done.measured) | {"train_s": round(done.train_s, 1), "commit": _commit()}
            row["base_epochs"] = EPOCHS
            RESULTS.parent.mkdir(exist_ok=True)
            with RESULTS.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
            sys.stderr.write(json.dumps(row) + "\n")


def _scores(base: Measurement, tuned: Measurement) -> dict[str, Any]:
    kept = retention(base.general.tasks, tuned.general.tasks)
    return {
        "domain_score": round(-tuned.domain.nll_per_token, 4),
        "open_retention": round(kept.mean, 4),
        "open_retention_min": round(kept.minimum, 4),
        "open_worst": min(kept.per_task, key=lambda name: kept.per_task[name].capped),
    }


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) and abs(value) < 10 else str(value)


if __name__ == "__main__":
    main()
