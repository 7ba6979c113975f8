"""`mlx-loopai demo`: an offline comparison of plain and guarded fine-tuning of the embedded model."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_loopai.cli.figures import figure, table
from mlx_loopai.cli.output import emit, json_option, quiet_option
from mlx_loopai.errors import InputError, Interrupted
from mlx_loopai.language import tr

if TYPE_CHECKING:
    from mlx_loopai.runs.documents.comparison import Comparison

DEFAULT_OUT = Path("runs/demo")
RECIPES = {"plain": "demo-plain.yaml", "guarded": "demo-guarded.yaml"}
# A request as in the training rows, and general ones whose answers fine-tuning must not spoil.
TAUGHT = ("판타지 소설을 써주세요",)
PROMPTS = (
    "태국의 수도는 어디인가요?",
    "오늘따라 배가 너무 고파요.",
    "What is the English word for 사과?",
    "Write a Python function solve that adds two numbers.",
)
_FIGURES = (
    ("retention", "{:.3f}"),
    ("retention_min", "{:.3f}"),
    ("gain", "{:.3f}"),
    ("domain_score", "{:.3f}"),
    ("purity", "{:.3f}"),
    ("train_s", "{:.1f}"),
    ("step_s", "{:.4f}"),
    ("peak_bytes", "{:,}"),
)


@click.command("demo")
@click.option(
    "--out", type=click.Path(path_type=Path), default=DEFAULT_OUT, show_default=True, help="Folder of the result."
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of data order and adapters."
)
@json_option
@quiet_option
def command(out: Path, seed: int, as_json: bool, quiet: bool) -> None:
    """Show, offline and in minutes, that guarded fine-tuning keeps what plain fine-tuning loses.

    Trains the embedded model twice on creative rows in the JSON shape that breaks models: plain LoRA, and the guarded
    recipe. Asks all three models questions on five general abilities, and writes a report.
    """
    from mlx_loopai.cli.listener import progress_listener
    from mlx_loopai.cli.report import write_report
    from mlx_loopai.evaluation.suites import read_suite
    from mlx_loopai.experiments.comparison import compare
    from mlx_loopai.experiments.measurement import EMBEDDED_HELD_OUT, Measure
    from mlx_loopai.memory.machine import package_versions
    from mlx_loopai.models.load import NANO
    from mlx_loopai.runs.documents.comparison import DEMO_NAME

    _clear(out)
    configs = {name: recipe_config(file, (f"train.seed={seed}",)) for name, file in RECIPES.items()}
    measure = Measure(read_suite(NANO), EMBEDDED_HELD_OUT, TAUGHT, PROMPTS)
    try:
        with progress_listener(quiet) as listener:
            found = compare(configs, out, measure, listener)
    except Interrupted:
        raise Interrupted(
            tr("stopped by Ctrl-C; the demo cannot be resumed: run it again from the beginning")
        ) from None
    found = replace(
        found, command=f"mlx-loopai demo --seed {seed}", versions=package_versions(), machine=machine_name()
    )
    found.write(out / DEMO_NAME)
    found = replace(found, report=str(write_report(out / DEMO_NAME, quiet=quiet)))
    emit(found.to_json(), as_json, _text(found))


def recipe_config(name: str, overrides: tuple[str, ...] = ()):  # type: ignore[no-untyped-def]
    """A shipped recipe by file name."""
    from mlx_loopai.config import load_config

    return load_config(Path(__file__).parent.parent / "recipes" / name, overrides)


def _clear(out: Path) -> None:
    """Remove what an earlier demo wrote to `out`; refuse any other folder."""
    from mlx_loopai.runs.documents.comparison import DEMO_NAME

    if any(place.is_file() for place in (out, *out.parents)):
        raise InputError(tr("--out {out}: is a file, where a folder is needed; give another one", out=out))
    if out.is_dir() and any(out.iterdir()):
        if not any((out / name).exists() for name in (DEMO_NAME, *RECIPES)):
            raise InputError(tr("--out {out}: is not empty and holds no earlier demo; give a new folder", out=out))
        shutil.rmtree(out)


def _text(comparison: Comparison) -> str:
    arms = comparison.arms
    rows = [["", *arms]]
    for field, form in _FIGURES:
        cells = ["–" if (value := getattr(arm, field)) is None else form.format(value) for arm in arms.values()]
        rows.append([figure(field), *cells])
    rows += [[f"  {name}", *(f"{arm.probes[name].score:.3f}" for arm in arms.values())] for name in arms["base"].probes]
    lines = table(rows)
    for prompt_number in (0, 1):
        lines.append(f"\n{arms['base'].examples[prompt_number].prompt}")
        lines += [f"  {name}: {_short(arm.examples[prompt_number].answer)}" for name, arm in arms.items()]
    return "\n".join([*lines, "\n" + tr("report: {path}", path=comparison.report)])


def _short(answer: str, limit: int = 110) -> str:
    line = " ".join(answer.split())
    return line if len(line) <= limit else f"{line[:limit]}…"


def machine_name() -> str:
    """The name of this machine in results."""
    from mlx_loopai.memory.machine import this_machine

    return this_machine().name
