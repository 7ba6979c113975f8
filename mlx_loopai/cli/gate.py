"""`mlx-loopai gate`: whether a fine-tuned model may go out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.output import emit, json_option, quiet_option
from mlx_loopai.errors import GateFailed, InputError

if TYPE_CHECKING:
    from mlx_loopai.evaluation.gate import Gate

EVALUATION_FILE = "evaluation.json"
COMPARISON_FILES = ("compare.json", "demo.json")


@click.command("gate", short_help="Exit status 1 when a model forgot too much or learnt too little.")
@click.argument("source", metavar="RUN_OR_REPORT", type=click.Path(path_type=Path))
@click.option("--arm", default="guarded", show_default=True, help="Which arm of a demo's or comparison's report.")
@click.option("--floor", type=click.FloatRange(0, 1), help="Least retention; the run's forgetting.floor, else 0.95.")
@click.option("--min-floor", type=click.FloatRange(0, 1), help="Least retention of any probe; 0.9 unless given.")
@click.option("--gain-floor", type=click.FloatRange(min=0), help="Least gain; the run's forgetting.gain_floor, else 0.")
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
    """Check RUN_OR_REPORT: the folder of a run (its evaluation.json), a demo or a comparison, or such a JSON file."""
    path = _report_in(source) if source.is_dir() else source
    report = _chosen_arm(path, _read(source, path), arm)
    gate = replace(_gate(source, floor, min_floor, gain_floor), certain=certain)
    reasons = gate.check(report)
    figures = {name: report.get(name) for name in ("retention", "retention_min", "gain")}
    document = {"passed": not reasons, "reasons": reasons, "report": path, **figures, "floors": gate}
    said = ", ".join(f"{name} {value:.3f}" for name, value in figures.items() if value is not None)
    emit(document, as_json, "" if reasons else f"passed: {said}")
    if reasons:
        raise GateFailed(f"{path}: gate failed: {'; '.join(reasons)}")


def _report_in(folder: Path) -> Path:
    names = (EVALUATION_FILE, *COMPARISON_FILES)
    return next((folder / name for name in names if (folder / name).is_file()), folder / EVALUATION_FILE)


def _gate(source: Path, floor: float | None, min_floor: float | None, gain_floor: float | None) -> Gate:
    """The floors given, those of the run's own settings where there are any, and the defaults."""
    from mlx_loopai.config import load_config
    from mlx_loopai.evaluation.gate import Gate

    gate = Gate()
    settings = source / "resolved.yaml"
    if settings.is_file():
        asked = load_config(settings).forgetting
        gate = replace(gate, floor=asked.floor, gain_floor=asked.gain_floor)
    given: dict[str, Any] = {"floor": floor, "minimum_floor": min_floor, "gain_floor": gain_floor}
    return replace(gate, **{name: value for name, value in given.items() if value is not None})


def _read(source: Path, path: Path) -> dict[str, Any]:
    run = source if source.is_dir() else "RUN"
    make = f"make it: mlx-loopai evaluate --adapter {run}/adapter --out {run}/{EVALUATION_FILE}"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such report; {make}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; {make}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON report ({' '.join(str(error).split())}); {make}") from None
    if not isinstance(report, dict) or not ({"retention", "arms"} & report.keys()):
        raise InputError(f"{path}: holds neither a retention nor arms; {make}")
    return report


def _chosen_arm(path: Path, report: dict[str, Any], arm: str) -> dict[str, Any]:
    """The figures of one arm; a report without arms is its own."""
    if "arms" not in report:
        if report["retention"] is None and report.get("adapter") is None:
            raise InputError(f"{path}: only a base was evaluated; evaluate it with --adapter to have a retention")
        return report
    arms = report["arms"]
    found = arms.get(arm) if isinstance(arms, dict) else None
    if not isinstance(found, dict):
        known = ", ".join(arms) if isinstance(arms, dict) else "none"
        raise InputError(f"{path}: no arm {arm!r} (arms: {known}); choose one with --arm")
    return found
