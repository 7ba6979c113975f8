"""`mlx-loopai train`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.output import emit, json_option, quiet_option, say_next
from mlx_loopai.cli.rows import column_map, columns_option, skip_bad_option
from mlx_loopai.errors import InputError

if TYPE_CHECKING:
    from mlx_loopai.runs.documents.summary import Summary
    from mlx_loopai.runs.documents.verdict import JudgedSummary

_WITHOUT_GUARD = ("replay.source=none", "replay.share=0", "replay.loss_share=0", "penalty.kind=none")
_SAMPLE_CHARS = 160


@click.command("train")
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option("--model", help="nano, a folder or a hub id. [default: the recipe's `model`]")
@click.option(
    "--data",
    "data",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Training rows: a file, a folder or hf:OWNER/NAME[:SPLIT]; may be repeated.",
)
@columns_option
@skip_bad_option
@click.option(
    "--allow-special", is_flag=True, help="Let names such as <|im_end|> in --data be control tokens, not text."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run's folder.")
@click.option(
    "--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override any option of the configuration."
)
@click.option(
    "--plain",
    is_flag=True,
    help="Train without a guard: faster, but the model may forget all that is not in the rows.",
)
@click.option("--resume", is_flag=True, help="Continue from the last complete checkpoint in --out.")
@json_option
@quiet_option
def command(
    recipe: Path | None,
    model: str | None,
    data: tuple[Path, ...],
    columns: str | None,
    skip_bad: bool,
    allow_special: bool,
    out: Path,
    overrides: tuple[str, ...],
    plain: bool,
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fine-tune a model by RECIPE.yaml, or by --model and --data.

    Without a recipe the run is guarded: it keeps what the model can do, measures that at its end, and says whether the
    result may be used. A recipe names its own guards.

    \b
    mlx-loopai train --data rows.jsonl --out runs/first
    mlx-loopai train recipe.yaml --out runs/guarded --set train.learning_rate=2e-4
    mlx.launch -n 2 --backend ring mlx-loopai train recipe.yaml --out runs/two
    """
    from mlx_loopai.cli.listener import progress_listener
    from mlx_loopai.config import load_config
    from mlx_loopai.config.shipped import shipped_values
    from mlx_loopai.runs.documents.verdict import JudgedSummary

    if recipe is None and not data:
        raise InputError("train: give RECIPE.yaml, or --data FILE; mlx-loopai train --help shows both")
    if model is not None:
        overrides = (f"model={json.dumps(model)}", *overrides)  # over the recipe's own
    if plain:
        overrides = (*_WITHOUT_GUARD, *overrides)
    how = {"columns": column_map(columns), "skip_bad": skip_bad, "allow_special": allow_special}
    short = short_form(data, recipe, how)
    config = load_config(recipe, overrides, short if plain or recipe else shipped_values("guarded") | short)
    from mlx_loopai.experiments.judged_run import train_and_judge
    from mlx_loopai.training.process_group import ProcessGroup

    group = ProcessGroup.join()
    with progress_listener(quiet or group.rank > 0) as listener:
        summary = train_and_judge(config, out, listener, resume, group)
        if isinstance(summary, JudgedSummary):
            summary = with_report(summary, out)
    if group.rank == 0:
        emit(summary.to_json(), as_json, judged_text(summary) if isinstance(summary, JudgedSummary) else _text(summary))
        say_next(next_step(summary, out), as_json, quiet)


def next_step(summary: Summary, out: Path) -> str:
    """What usually follows: a run that passed is used, any other is measured in full."""
    from mlx_loopai.runs.directory import RunDirectory
    from mlx_loopai.runs.documents.verdict import JudgedSummary

    if isinstance(summary, JudgedSummary) and summary.verdict == "pass":
        return f"chat --adapter {out}"
    return f"evaluate --adapter {out} --out {RunDirectory(out).evaluation}"


def short_form(data: tuple[Path, ...], recipe: Path | None, how: dict[str, Any]) -> dict[str, Any]:
    """The files of --data, read as `how` says, as configuration values."""
    if not data:
        if any(how.values()):
            raise InputError(
                "train: --columns, --skip-bad and --allow-special go with --data; set them under the recipe's `sources`"
            )
        return {}
    if recipe is not None:
        raise InputError("train: --data goes without a recipe; name files under the recipe's `sources` instead")
    return {"sources": {_source_name(path, data): {"path": str(path)} | how for path in data}}


def with_report(judged: JudgedSummary, out: Path) -> JudgedSummary:
    """The same with the report of the run written beside it."""
    from mlx_loopai.report.assemble import default_place, report_of, write_page
    from mlx_loopai.runs.directory import RunDirectory

    place = default_place(out)
    judged = replace(judged, report=str(place))
    judged.write(RunDirectory(out).verdict)
    write_page(report_of(out).html, place)
    return judged


def _source_name(path: Path, data: tuple[Path, ...]) -> str:
    stems = [other.stem for other in data]
    return path.stem if stems.count(path.stem) == 1 else str(path)


def judged_text(judged: JudgedSummary) -> str:
    """What a guarded run learnt and kept, the same prompts before and after, and the verdict."""
    lines = [_text(judged), ""]
    floor = "" if judged.noise_floor is None else f" (rounding the base to 8 bits: {judged.noise_floor:.3f})"
    rows = [
        ("kept", _with_interval(judged.retention, judged.retention_interval) + floor),
        ("worst kind", _figure(judged.retention_min)),
        ("switched", f"{_figure(judged.switched_retention)} with --adapter-when auto"),
        ("learnt", f"{_with_interval(judged.gain, judged.gain_interval)} nats per token on held-out rows"),
        ("moved", f"{_figure(judged.budget_spent, 4)} nats per token of KL from the base"),
    ]
    lines += [f"{name:<12}{value}" for name, value in rows]
    for sample in judged.samples:
        before, after = f"  before: {_short(sample.base)}", f"  after:  {_short(sample.tuned)}"
        lines += ["", f"> {_short(sample.prompt)}", before, after]
    lines += ["", f"verdict: {judged.verdict}", *(f"  {reason}" for reason in judged.reasons)]
    return "\n".join([*lines, f"report: {judged.report}"])


def _figure(value: float | None, digits: int = 3) -> str:
    return "not measured" if value is None else f"{value:.{digits}f}"


def _with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    between = "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
    return _figure(value) + between


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SAMPLE_CHARS else f"{line[:_SAMPLE_CHARS]}…"


def _text(summary: Summary) -> str:
    lines = [
        f"{summary.steps} steps in {summary.train_s:.1f} s, {summary.tokens_per_s:.0f} supervised tokens/s",
        f"loss {summary.loss_first:.4f} -> {summary.loss_last:.4f} on the same rows",
        f"padding wasted {1 - summary.real_token_share:.1%} of the computation",
        f"adapter: {summary.run}/adapter",
    ]
    if summary.mlx_lm_token_share is not None:
        lines[2] += f" (mlx-lm's batches of these rows: {1 - summary.mlx_lm_token_share:.1%})"
    if summary.pair_accuracy is not None and summary.margin is not None:
        won = f"{summary.pair_accuracy:.1%} won by the chosen answer, by {summary.margin:.2f} nats"
        likelier = _figure(summary.chosen_logprob_change)
        lines.append(f"held-out pairs: {won}; chosen answers {likelier} nats per token likelier")
    if summary.skipped_steps:
        lines.append(f"{summary.skipped_steps} steps were skipped: their loss or gradient was not finite")
    return "\n".join(lines)
