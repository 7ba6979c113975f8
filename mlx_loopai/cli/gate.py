"""`mlx-loopai gate`: decides by measured floors whether a fine-tuned model may be released."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.output import emit, json_option, quiet_option, say_next
from mlx_loopai.errors import GateFailed, InputError
from mlx_loopai.language import tr

if TYPE_CHECKING:
    from mlx_loopai.evaluation.gate import Gate
    from mlx_loopai.runs.documents.figures import Kept


@click.command("gate", short_help="Exit status 1 when a model forgot too much or learnt too little.")
@click.argument("source", metavar="RUN_OR_REPORT", type=click.Path(path_type=Path))
@click.option("--arm", default="guarded", show_default=True, help="Which arm of a demo's or comparison's report.")
@click.option("--floor", type=click.FloatRange(0, 1), help="Least retention. [default: the run's forgetting.floor]")
@click.option(
    "--min-floor", type=click.FloatRange(0, 1), help="Least retention of any kind of question. [default: 0.9]"
)
@click.option(
    "--gain-floor", type=click.FloatRange(min=0), help="Least gain. [default: the run's forgetting.gain_floor]"
)
@click.option("--certain", is_flag=True, help="Judge retention and gain by the lower end of their 95 % intervals.")
@json_option
@quiet_option
def command(
    source: Path,
    arm: str,
    floor: float | None,
    min_floor: float | None,
    gain_floor: float | None,
    certain: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check RUN_OR_REPORT: the folder of a run (its evaluation.json), a demo or a comparison, or their JSON file.

    Retention must reach its floor times the noise floor, the retention of the base itself with its weights rounded to
    8 bits, where that was measured.
    """
    from mlx_loopai.experiments.verdict import not_learnt
    from mlx_loopai.runs.documents.verdict import JudgedSummary

    path = _report_in(source) if source.is_dir() else source
    found = _chosen(source, path, arm)
    gate = replace(_gate(source, floor, min_floor, gain_floor), certain=certain)
    judged = JudgedSummary.of_run(source)
    reasons = [
        *(not_learnt(judged) if judged else ()),
        *(shortfall.said(tr) for shortfall in gate.check(found.gate_figures)),
    ]
    figures = {"retention": found.retention, "retention_min": found.retention_min, "gain": found.gain}
    learnt = judged.gain if judged else None
    document = {"passed": not reasons, "reasons": reasons, "report": path, **figures, "learnt": learnt, "floors": gate}
    said = [f"{tr(name)} {value:.3f}" for name, value in figures.items() if value is not None]
    if learnt is not None:
        said.append(tr("{learnt:.3f} nats per token learnt on held-out rows", learnt=learnt))
    emit(document, as_json, "" if reasons else tr("passed: {figures}", figures=", ".join(said)))
    if reasons:
        raise GateFailed(tr("{path}: gate failed: {reasons}", path=path, reasons="; ".join(reasons)))
    if (source / "adapter").is_dir():
        say_next(f"chat --adapter {source}", as_json, quiet)


def _report_in(folder: Path) -> Path:
    from mlx_loopai.runs.documents.comparison import COMPARISON_NAMES
    from mlx_loopai.runs.documents.evaluation import EVALUATION_NAME

    names = (EVALUATION_NAME, *COMPARISON_NAMES)
    return next((folder / name for name in names if (folder / name).is_file()), folder / EVALUATION_NAME)


def _gate(source: Path, floor: float | None, min_floor: float | None, gain_floor: float | None) -> Gate:
    """The gate with the given floors; others come from the run's own settings, or are the defaults."""
    from mlx_loopai.evaluation.gate import Gate
    from mlx_loopai.runs.directory import RunDirectory
    from mlx_loopai.runs.documents.document import read_text
    from mlx_loopai.runs.documents.run import gate_of

    settings = RunDirectory(source).resolved
    gate = gate_of(read_text(settings), str(settings)) if settings.is_file() else Gate()
    given: dict[str, Any] = {"floor": floor, "minimum_floor": min_floor, "gain_floor": gain_floor}
    return replace(gate, **{name: value for name, value in given.items() if value is not None})


def _chosen(source: Path, path: Path, arm: str) -> Kept:
    """The evaluation in the file `path`, or the arm that was asked for of the comparison in it."""
    from mlx_loopai.runs.documents.comparison import Comparison
    from mlx_loopai.runs.documents.evaluation import EVALUATION_NAME
    from mlx_loopai.runs.documents.result import read_result

    run = source if source.is_dir() else "RUN"
    make = tr(
        "make one: mlx-loopai evaluate --adapter {run}/adapter --out {run}/{evaluation_name}",
        run=run,
        evaluation_name=EVALUATION_NAME,
    )
    try:
        found = read_result(path)
    except FileNotFoundError:
        raise InputError(tr("{path}: there is no such report; {make}", path=path, make=make)) from None
    except InputError as error:
        raise InputError(f"{error}; {make}") from None
    if isinstance(found, Comparison):
        if arm not in found.arms:
            raise InputError(
                tr(
                    "{path}: no arm {arm!r} (arms: {arms}); choose one with --arm",
                    path=path,
                    arm=arm,
                    arms=", ".join(found.arms),
                )
            )
        return found.arms[arm]
    if found.retention is None and found.adapter is None:
        raise InputError(
            tr("{path}: only a base was evaluated; evaluate it with --adapter to have a retention", path=path)
        )
    return found
