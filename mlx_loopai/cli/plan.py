"""`mlx-loopai plan`: predicts memory and time of a training run, and chooses settings that fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.figures import table
from mlx_loopai.cli.output import emit, json_option, progress, quiet_option
from mlx_loopai.errors import InputError
from mlx_loopai.language import later, tr

if TYPE_CHECKING:
    from mlx_loopai.experiments.preview import Preview
    from mlx_loopai.memory.plan import MemoryPlan


@click.command("plan", short_help="Predict the memory and time of a training run, and choose the settings that fit.")
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option(
    "--model", help="nano, a folder, a config.json, a cached hub id or Qwen2.5-3B-shape; overrides the recipe's."
)
@click.option("--machine", default="this", show_default=True, help="This computer, or a Mac such as m4-16gb.")
@click.option(
    "--macos", type=click.Choice(["15", "26"]), default="15", show_default=True, help="Memory policy of a named Mac."
)
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override an option, such as lora.rank=16.")
@click.option("--probe", is_flag=True, help="Measure two steps here, and correct this plan and later ones by them.")
@json_option
@quiet_option
def command(
    recipe: Path | None,
    model: str | None,
    machine: str,
    macos: str,
    overrides: tuple[str, ...],
    probe: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Predict the memory and the time that a training run needs, and choose the settings that fit.

    The time is a range, and needs the rows of RECIPE and their tokenizer, or train.max_steps. No weights are needed: a
    config.json is enough, for --probe too, which measures random weights. RECIPE and --set give the run's options as
    `train` takes them.
    Exit status 1 when the run does not fit; the table then shows the smallest attempt.
    """
    from mlx_loopai.config import load_config
    from mlx_loopai.library.training import preview

    if probe and machine != "this":
        raise InputError(
            tr("--probe: {machine} is not here to be measured; leave out --machine, or --probe", machine=machine)
        )
    if model is not None:
        overrides = (f"model={json.dumps(model)}", *overrides)
    config = load_config(recipe, overrides)
    found = preview(config, machine, macos=int(macos))
    if probe and found.plan.fits:
        _probe(config.model, found.plan, quiet)
        found = preview(config, machine, macos=int(macos))
    show_preview(config.model, found, as_json)


def show_preview(model: str, found: Preview, as_json: bool) -> None:
    """Print what a run will need. Raises: LoopaiError when it does not fit."""
    table = "\n".join([_table(model, found.plan), *found.lines])
    emit(_document(model, found.plan) | found.to_json(), as_json, table)
    found.plan.require_fit()


def _probe(model: str, planned: MemoryPlan, quiet: bool) -> None:
    """Measure steps of the plan and keep the correction."""
    import mlx_loopai.training.step_memory as measuring
    from mlx_loopai.memory.corrections import keep_factor
    from mlx_loopai.memory.watch import guarded
    from mlx_loopai.models.find_config import find_config
    from mlx_loopai.models.shape import ModelShape

    sizes, where = find_config(model)
    steps = len(measuring.probed_options(planned))
    with progress(steps, tr("probe"), quiet, unit="steps") as shown, guarded(planned):
        factor = measuring.probe(sizes, planned, shown.update)
    keep_factor(ModelShape.from_config(sizes, where), planned.machine, planned.checkpointing, factor)


def _document(model: str, found: MemoryPlan) -> dict[str, Any]:
    machine = found.machine
    return {
        "model": model,
        "machine": {
            "name": machine.name,
            "ram_bytes": machine.ram_bytes,
            "working_set_bytes": machine.working_set_bytes,
            "backend": machine.backend,
            "evidence": machine.evidence,
        },
        "fits": found.fits,
        "calibrated_on": found.calibrated_on,
        "budget_bytes": found.budget_bytes,
        "total_bytes": found.total_bytes,
        "peak_bytes": found.peak_bytes,
        "terms": found.terms,
        "phases": found.phases,
        "choices": [{"name": choice.name, "value": choice.value, "reason": choice.reason} for choice in found.choices],
    }


def _table(model: str, found: MemoryPlan) -> str:
    from mlx_loopai.units import format_bytes

    fits = tr("fits") if found.fits else tr("does not fit")
    lines = [tr("{model} on {machine}: {fits}", model=model, machine=found.machine.name, fits=fits)]
    rows = [*found.terms.items(), (later("total"), found.total_bytes)]
    *terms, total = table([(f"  {tr(name)}", format_bytes(size)) for name, size in rows])
    lines += [*terms, total + tr("  of {budget}", budget=format_bytes(found.budget_bytes))]
    lines += [f"{choice.name} = {_plain(choice.value)}: {choice.reason}" for choice in found.choices]
    lines += [tr("Estimated from: {source}", source=found.calibrated_on)]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
