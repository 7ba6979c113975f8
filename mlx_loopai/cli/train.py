"""`mlx-loopai train`: fine-tunes a model by a recipe or by flags, and judges a guarded run at its end."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.output import emit, json_option, padded, quiet_option, say_next
from mlx_loopai.cli.rows import column_map, columns_option, skip_bad_option
from mlx_loopai.errors import InputError, LeftBudget
from mlx_loopai.language import in_use, later, tr

if TYPE_CHECKING:
    from mlx_loopai.cli.listener import ShownProgress
    from mlx_loopai.config import RunConfig
    from mlx_loopai.runs.directory import EventSink
    from mlx_loopai.runs.documents.summary import Summary
    from mlx_loopai.runs.documents.verdict import JudgedSummary
    from mlx_loopai.runs.trackers import TrackerName

_WITHOUT_GUARD = ("replay.source=none", "replay.share=0", "replay.loss_share=0", "penalty.kind=none")
_SAMPLE_CHARS = 160
_VERDICTS = (later("pass"), later("fail"), later("unclear"), later("too little data"))


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
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder.  [required unless --dry-run]")
@click.option(
    "--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override any option of the configuration."
)
@click.option(
    "--plain",
    is_flag=True,
    help="Train without a guard: faster, but the model may forget all that is not in the rows.",
)
@click.option("--dry-run", is_flag=True, help="Show how much memory and time the run will need, and stop.")
@click.option("--watch", is_flag=True, help="Show the run on a page of this machine while it trains.")
@click.option(
    "--log-to",
    type=click.Choice(["tensorboard", "wandb", "trackio"]),
    help="Send the run's figures to this program as well (extra: trackers).",
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
    out: Path | None,
    overrides: tuple[str, ...],
    plain: bool,
    dry_run: bool,
    watch: bool,
    log_to: TrackerName | None,
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fine-tune a model by RECIPE.yaml, or by --model and --data.

    Without a recipe the run is guarded: it keeps what the model can do, measures that at its end, and says whether the
    result may be used. A recipe names its own guards.

    \b
    mlx-loopai train --data rows.jsonl --out runs/first
    mlx-loopai train recipe.yaml --dry-run
    mlx-loopai train recipe.yaml --out runs/guarded --set train.learning_rate=2e-4
    mlx.launch -n 2 --backend ring mlx-loopai train recipe.yaml --out runs/two
    """
    from mlx_loopai.config import load_config
    from mlx_loopai.config.shipped import guarded_values
    from mlx_loopai.runs.documents.verdict import JudgedSummary

    if recipe is None and not data:
        raise InputError(tr("train: give RECIPE.yaml, or --data FILE; mlx-loopai train --help shows both"))
    if model is not None:
        overrides = (f"model={json.dumps(model)}", *overrides)  # over the recipe's own
    if plain:
        overrides = (*_WITHOUT_GUARD, *overrides)
    how = {"columns": column_map(columns), "skip_bad": skip_bad, "allow_special": allow_special}
    short = short_form(data, recipe, how)
    config = load_config(recipe, overrides, short if plain or recipe else guarded_values(short, overrides))
    if dry_run:
        from mlx_loopai.cli.plan import show_preview
        from mlx_loopai.library.training import preview

        show_preview(config.model, preview(config), as_json)
        return
    if out is None:
        raise InputError(tr("train: give --out DIR for the run's folder, or --dry-run"))
    summary = _trained(config, out, resume, _Following(watch, log_to), quiet)
    if summary is not None:
        emit(summary.to_json(), as_json, judged_text(summary) if isinstance(summary, JudgedSummary) else _text(summary))
        say_next(next_step(summary, out), as_json, quiet)
        if summary.stopped_by:
            raise LeftBudget(_stopped_line(summary))


@dataclass(frozen=True)
class _Following:
    """How a run can be followed: on the page of --watch, in the tracker of --log-to."""

    watch: bool
    log_to: TrackerName | None


def _trained(config: RunConfig, out: Path, resume: bool, following: _Following, quiet: bool) -> Summary | None:
    """Train, and write the report of a run that was judged; None in a process that does not write."""
    from mlx_loopai.cli.listener import progress_listener
    from mlx_loopai.experiments.judged_run import train_and_judge
    from mlx_loopai.runs.documents.verdict import JudgedSummary
    from mlx_loopai.training.process_group import ProcessGroup

    group = ProcessGroup.join()
    writes = group.rank == 0
    with ExitStack() as opened:
        shown = opened.enter_context(progress_listener(quiet or not writes))
        sinks = (shown, *_followers(opened, out, following)) if writes else ()
        summary = train_and_judge(config, out, shown, resume, group, sinks)
        if isinstance(summary, JudgedSummary):
            summary = with_report(summary, out, shown)
    return summary if writes else None


def _followers(opened: ExitStack, out: Path, following: _Following) -> tuple[EventSink, ...]:
    """The receivers of the run's events, open as long as `opened`: the page of --watch, the tracker of --log-to."""
    from mlx_loopai.cli.watch import Looking, watched
    from mlx_loopai.runs.directory import RunDirectory
    from mlx_loopai.runs.trackers import tracker

    found: list[EventSink] = []
    if following.log_to:
        found.append(opened.enter_context(tracker(following.log_to, out)))
    if following.watch:
        found.append(Looking(RunDirectory(out)))
        url = opened.enter_context(watched(out, 0))
        click.echo(tr("watch the run: {url}", url=url), err=True)
    return tuple(found)


def next_step(summary: Summary, out: Path) -> str:
    """The command that usually follows: for a run that passed, to use it; for one that learnt and forgot, to see what
    less of its update keeps; for any other, to measure it in full.
    """
    from mlx_loopai.experiments.verdict import not_learnt
    from mlx_loopai.runs.documents.verdict import JudgedSummary

    if isinstance(summary, JudgedSummary) and summary.verdict == "pass":
        return f"chat --model {summary.model}" if summary.model else f"chat --adapter {out}"
    if isinstance(summary, JudgedSummary) and summary.verdict == "fail" and not not_learnt(summary):
        return f"adapters frontier {out}"
    if summary.model:
        return f"evaluate --model {summary.model}"
    return f"evaluate --adapter {out}"


def short_form(data: tuple[Path, ...], recipe: Path | None, how: dict[str, Any]) -> dict[str, Any]:
    """The files of --data, read as `how` says, as configuration values."""
    if not data:
        if any(how.values()):
            raise InputError(
                tr(
                    "train: --columns, --skip-bad and --allow-special go with --data; set them under the recipe's "
                    "`sources`"
                )
            )
        return {}
    if recipe is not None:
        raise InputError(tr("train: --data goes without a recipe; name files under the recipe's `sources` instead"))
    return {"sources": {_source_name(path, data): {"path": str(path)} | how for path in data}}


def with_report(judged: JudgedSummary, out: Path, shown: ShownProgress) -> JudgedSummary:
    """Write the run's report into its folder, and return the summary with the report's path."""
    from mlx_loopai.report.assemble import default_place, report_of, write_page
    from mlx_loopai.runs.directory import RunDirectory

    place = default_place(out)
    judged = replace(judged, report=str(place))
    judged.write(RunDirectory(out).verdict)
    write_page(report_of(out, in_use(), shown).html, place)
    return judged


def _source_name(path: Path, data: tuple[Path, ...]) -> str:
    stems = [other.stem for other in data]
    return path.stem if stems.count(path.stem) == 1 else str(path)


def judged_text(judged: JudgedSummary) -> str:
    """What a guarded run learnt and kept, the same prompts before and after, and the verdict."""
    lines = [_text(judged), ""]
    floor = (
        ""
        if judged.noise_floor is None
        else tr(" (rounding the base to 8 bits: {noise_floor:.3f})", noise_floor=judged.noise_floor)
    )
    rows = [
        (tr("kept"), _with_interval(judged.retention, judged.retention_interval) + floor),
        (tr("worst kind"), " ".join(filter(None, [_figure(judged.retention_min), judged.worst_kind]))),
        (
            tr("switched"),
            _unless_missing(
                judged.switched_retention,
                tr("{figure} with --adapter-when auto", figure=_figure(judged.switched_retention)),
            ),
        ),
        (
            tr("learnt"),
            _unless_missing(
                judged.gain,
                tr(
                    "{with_interval} nats per token on held-out rows",
                    with_interval=_with_interval(judged.gain, judged.gain_interval),
                ),
            ),
        ),
        (
            tr("moved"),
            _unless_missing(
                judged.divergence,
                tr("{figure} nats per token of KL from the base", figure=_figure(judged.divergence, 4)),
            ),
        ),
        (
            tr("furthest"),
            _unless_missing(
                judged.furthest_divergence,
                tr(
                    "{figure} nats per token: {kind}, of all kinds of general answers",
                    figure=_figure(judged.furthest_divergence, 4),
                    kind=judged.furthest_kind,
                ),
            ),
        ),
    ]
    lines += [padded(name, 12) + value for name, value in rows]
    for sample in judged.samples:
        before, after = (
            tr("  before: {text}", text=_short(sample.base)),
            tr("  after:  {text}", text=_short(sample.tuned)),
        )
        lines += ["", f"> {_short(sample.prompt)}", before, after]
    lines += ["", tr("verdict: {verdict}", verdict=tr(judged.verdict)), *(f"  {reason}" for reason in judged.reasons)]
    return "\n".join([*lines, tr("report: {path}", path=judged.report)])


def _unless_missing(value: float | None, text: str) -> str:
    """`text`, which gives `value` with its unit; a figure that is missing has none."""
    return _figure(None) if value is None else text


def _figure(value: float | None, digits: int = 3) -> str:
    return tr("not measured") if value is None else f"{value:.{digits}f}"


def _with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    between = "" if interval is None else tr(" ({low:.3f} to {high:.3f})", low=interval[0], high=interval[1])
    return _figure(value) + between


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SAMPLE_CHARS else f"{line[:_SAMPLE_CHARS]}…"


def _text(summary: Summary) -> str:
    from mlx_loopai.runs.directory import RunDirectory

    lines = [
        tr(
            "{steps} steps in {train_s:.1f} s, {tokens_per_s:.0f} supervised tokens/s",
            steps=summary.steps,
            train_s=summary.train_s,
            tokens_per_s=summary.tokens_per_s,
        ),
        *_loss_line(summary),
        tr("padding wasted {real_token_share:.1%} of the computation", real_token_share=1 - summary.real_token_share),
        tr("model: {path}", path=summary.model)
        if summary.model
        else tr("adapter: {path}", path=RunDirectory(Path(summary.run)).adapter),
    ]
    if summary.mlx_lm_token_share is not None:
        lines[-2] += tr(
            " (mlx-lm's batches of these rows: {mlx_lm_token_share:.1%})",
            mlx_lm_token_share=1 - summary.mlx_lm_token_share,
        )
    if summary.pair_accuracy is not None and summary.margin is not None:
        lines.append(_judged_line(summary, summary.pair_accuracy, summary.margin))
    lines += _prompt_lines(summary)
    if summary.skipped_steps:
        lines.append(
            tr(
                "{skipped_steps} steps were skipped: their loss or gradient was not finite",
                skipped_steps=summary.skipped_steps,
            )
        )
    return "\n".join(lines)


def _loss_line(summary: Summary) -> list[str]:
    """The loss before and after; nothing where no row has an answer."""
    if summary.loss_first is None or summary.loss_last is None:
        return []
    return [
        tr(
            "loss {loss_first:.4f} -> {loss_last:.4f} on the same rows",
            loss_first=summary.loss_first,
            loss_last=summary.loss_last,
        )
    ]


def _prompt_lines(summary: Summary) -> list[str]:
    """What was learnt of prompts, as held-out ones show it; nothing where there are none."""
    if summary.reward is None:
        return []
    return [
        tr(
            "held-out prompts: reward {reward_first:.3f} -> {reward:.3f}, answers without a fault "
            "{faultless_first:.1%} -> {faultless:.1%}, tokens an answer {tokens_first:.0f} -> {tokens:.0f}; "
            "{divergence:.3f} nats a token from the base",
            reward_first=summary.reward_first,
            reward=summary.reward,
            faultless_first=summary.faultless_first,
            faultless=summary.faultless,
            tokens_first=summary.answer_tokens_first,
            tokens=summary.answer_tokens,
            divergence=summary.answers_divergence,
        )
    ]


def _stopped_line(summary: Summary) -> str:
    """That the run left its forgetting budget, and what its result is then."""
    if summary.result_step is None:
        return tr(
            "stopped at step {steps}, outside of its forgetting budget; the update was scaled back", steps=summary.steps
        )
    return tr(
        "stopped at step {steps}, outside of its forgetting budget; the result is step {result_step}, the last one "
        "inside it",
        steps=summary.steps,
        result_step=summary.result_step,
    )


def _judged_line(summary: Summary, pair_accuracy: float, margin: float) -> str:
    """What was learnt of judged answers, as held-out ones show it."""
    likelier = _figure(summary.chosen_logprob_change)
    if summary.positions:
        return tr(
            "held-out positions: the better tokens gained on the others at {pair_accuracy:.1%} of {positions}, by "
            "{margin:.2f} nats; they became {likelier} nats likelier",
            pair_accuracy=pair_accuracy,
            positions=summary.positions,
            margin=margin,
            likelier=likelier,
        )
    won = tr(
        "{pair_accuracy:.1%} won by the chosen answer, by {margin:.2f} nats", pair_accuracy=pair_accuracy, margin=margin
    )
    return tr("held-out pairs: {won}; chosen answers {likelier} nats per token likelier", won=won, likelier=likelier)
