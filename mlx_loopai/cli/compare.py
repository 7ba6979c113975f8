"""`mlx-loopai compare`: trains a recipe in several ways, and shows what each keeps and learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_loopai.cli.figures import figure, noise_line, table
from mlx_loopai.cli.output import emit, json_option, quiet_option
from mlx_loopai.errors import InputError, Interrupted
from mlx_loopai.language import tr

if TYPE_CHECKING:
    from mlx_loopai.runs.documents.comparison import Comparison
    from mlx_loopai.runs.documents.document import Interval

SWEPT = "train.learning_rate"


@click.command("compare")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--arms",
    default="plain,guarded",
    show_default=True,
    help="Names or recipe files, separated by commas; plain always takes part.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of every arm.")
@click.option(
    "--sweep", metavar="train.learning_rate=V1,V2", help="Rates to try for every arm; held-out domain rows choose one."
)
@click.option(
    "--sweep-seeds", type=click.IntRange(min=1), help="Try each rate with N seeds only; train the chosen one with all."
)
@click.option("--posthoc", metavar="ROWS", help="Rescale every arm after training, too, by these held-out domain rows.")
@click.option("--suite", help="nano, general, or a suite file; by default what suits the model.")
@click.option("--limit", type=click.IntRange(min=1), help="Ask at most N questions of every kind.")
@click.option(
    "--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override any option of the configuration."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the runs and the result.")
@json_option
@quiet_option
def command(
    recipe: Path,
    arms: str,
    seeds: int,
    sweep: str | None,
    sweep_seeds: int | None,
    posthoc: str | None,
    suite: str | None,
    limit: int | None,
    overrides: tuple[str, ...],
    out: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a recipe in several ways and show what each keeps and learns.

    Arms: plain (no guard), plain-matched (plain with the most steps of any arm), replay-1, replay-5, replay-10
    (general records), self (the base's own answers), kronecker, sketch, hierarchical, fisher, hlora, kl (penalties
    alone), held (`penalty.held_energy` alone), stage-a (hlora's first stage alone), guarded (the recommended
    combination), recipe (RECIPE as it is), or a recipe FILE.yaml of the same base. The recipe's `validation` rows
    measure the domain. With --posthoc every arm appears once more as ARM+posthoc: its update scaled, over all
    blocks alike or along them, to the most gain whose general likelihood stays above `forgetting.kept_floor`.
    The same command continues where it stopped: finished runs are not trained again.

    \b
    mlx-loopai compare my.yaml --arms plain,replay-10,guarded --sweep train.learning_rate=1e-4,3e-4 --out runs/c
    """
    from mlx_loopai.cli.demo import machine_name
    from mlx_loopai.cli.listener import progress_listener
    from mlx_loopai.cli.report import write_report
    from mlx_loopai.config import load_config
    from mlx_loopai.memory.machine import package_versions
    from mlx_loopai.runs.documents.comparison import COMPARISON_NAME

    rates = _rates(sweep)
    config = load_config(recipe, overrides)
    from mlx_loopai.experiments.arms import named_arms
    from mlx_loopai.experiments.measurement import measure_for

    configs = named_arms(config, [name.strip() for name in arms.split(",") if name.strip()], overrides)
    measure = measure_for(config, suite, limit)
    if posthoc:
        from mlx_loopai.experiments.tune import check_apart

        check_apart(posthoc, measure.domain)
    from mlx_loopai.experiments.grid import Grid, Trials

    first = config.train.seed
    trials = Trials(rates, range(first, first + seeds), sweep_seeds)
    try:
        with progress_listener(quiet) as listener:
            grid = Grid(arms=configs, trials=trials, out=out, measure=measure, listener=listener, posthoc=posthoc or "")
            found = grid.run()
    except (Interrupted, KeyboardInterrupt):
        said = tr("stopped by Ctrl-C; finished runs stay in {out}; the same command continues", out=out)
        raise Interrupted(said) from None
    found = replace(found, command=_command(), versions=package_versions(), machine=machine_name())
    found.write(out / COMPARISON_NAME)
    found = replace(found, report=str(write_report(out / COMPARISON_NAME, quiet=quiet)))
    emit(found.to_json(), as_json, _text(found))


def _rates(sweep: str | None) -> tuple[float, ...]:
    """The learning rates of --sweep, ascending; none without it."""
    if sweep is None:
        return ()
    name, _, values = sweep.partition("=")
    if name.strip() != SWEPT:
        raise InputError(
            tr(
                "--sweep {sweep}: only {swept} is chosen by the domain score; set others with --set",
                sweep=sweep,
                swept=SWEPT,
            )
        )
    try:
        rates = sorted({float(value) for value in values.split(",")})
    except ValueError:
        raise InputError(
            tr("--sweep {sweep}: expected numbers, such as {swept}=1e-4,3e-4", sweep=sweep, swept=SWEPT)
        ) from None
    if not all(0 < rate < float("inf") for rate in rates):
        raise InputError(tr("--sweep {sweep}: learning rates are above 0; give others", sweep=sweep))
    return tuple(rates)


def _command() -> str:
    import shlex
    import sys

    return shlex.join(["mlx-loopai", *sys.argv[1:]])


def _text(comparison: Comparison) -> str:
    from mlx_loopai.runs.documents.comparison import BASE

    fields = ("retention", "retention_min", "gain", "domain_score", "learning_rate", "train_s")
    rows = [[tr("arm"), *map(figure, fields)]]
    for name, arm in comparison.arms.items():
        intervals = {"retention": arm.retention_interval, "gain": arm.gain_interval}
        rows.append([name, *(_cell(getattr(arm, field), intervals.get(field)) for field in fields)])
    base = comparison.arms[BASE]
    said = tr("{n_seeds} seeds; report: {path}", n_seeds=len(comparison.seeds), path=comparison.report)
    return "\n".join([*table(rows), "", *noise_line(base.noise_floor, base.noise_floor_min), said])


def _cell(value: float | None, interval: Interval) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" + (f" ({interval[0]:.3f}–{interval[1]:.3f})" if interval else "")
