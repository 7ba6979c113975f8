"""`mlx-loopai steer`: finds how much a model's head must be damped so that it stays in its language."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.figures import table
from mlx_loopai.cli.output import emit, json_option, quiet_option
from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.language import tr

if TYPE_CHECKING:
    from mlx_loopai.experiments.steering import Count, Tuning


@click.group("steer", short_help="Find how to keep a model from slipping into other scripts.")
def command() -> None:
    """Find how to keep a model from slipping into other scripts, in every program that runs it."""


@command.command("tune")
@click.option("--model", required=True, help="A folder, or a hub id.")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    help="Prompts that provoke other scripts. [default: the program's own]",
)
@click.option("--scripts", default="han,kana", show_default=True, help="The scripts to damp, with commas between.")
@click.option(
    "--reduction",
    type=click.FloatRange(0, 1),
    default=0.9,
    show_default=True,
    help="The share of their letters that must disappear.",
)
@click.option("--suite", help="Measure what is kept on this suite too: general, nano, or a YAML file.")
@click.option("--limit", type=click.IntRange(min=1), help="Ask at most N questions of each of its tasks.")
@click.option(
    "--answers",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Answers to each prompt; more make the choice surer.",
)
@click.option("--max-tokens", type=click.IntRange(min=8), default=96, show_default=True, help="Tokens of an answer.")
@json_option
@quiet_option
def tune_command(
    model: str,
    prompts: Path | None,
    scripts: str,
    reduction: float,
    suite: str | None,
    limit: int | None,
    answers: int,
    max_tokens: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find the mildest damping of the head that keeps answers to provoking prompts in Korean.

    Half of the prompts choose the factor, the other half measures it. A factor is enough when the lower end of the 95 %
    interval of its reduction is, so that it holds for other prompts as well. Give the result to convert --steer or
    adapters fuse --steer. Exit status 1 when no factor is enough.
    """
    from mlx_loopai.cli.listener import progress_listener
    from mlx_loopai.data.samples.provoking import PROVOKING_PROMPTS
    from mlx_loopai.evaluation.suites import read_suite
    from mlx_loopai.experiments.steering import Search, tune
    from mlx_loopai.generation.prompts import read_prompts
    from mlx_loopai.generation.session import open_session
    from mlx_loopai.models.token_scripts import SCRIPTS

    names = tuple(name.strip() for name in scripts.split(","))
    unknown = [name for name in names if name not in SCRIPTS]
    if unknown:
        raise InputError(
            tr(
                "`scripts` {unknown}: no such script; there are {scripts}",
                unknown=", ".join(unknown),
                scripts=", ".join(SCRIPTS),
            )
        )
    search = Search(
        names,
        prompts=[prompt.text for prompt in read_prompts(prompts)] if prompts else PROVOKING_PROMPTS,
        tasks=read_suite(suite, limit) if suite else (),
        least_reduction=reduction,
        answers=answers,
        max_tokens=max_tokens,
    )
    with progress_listener(quiet) as listener:
        found = tune(open_session(model), search, listener)
    emit(_document(found), as_json, _text(found))
    if found.factor is None:
        raise LoopaiError(
            tr(
                "no factor removes {reduction:.0%} of {names}; the smallest tried left more",
                reduction=reduction,
                names=" and ".join(names),
            )
        )


def _document(found: Tuning) -> dict[str, Any]:
    return {
        "steer": found.text,
        "scripts": found.scripts,
        "factor": found.factor,
        "base": _count(found.base),
        "tried": [
            {"factor": one.factor, "reduction_interval": one.count.reduction_interval(found.base)} | _count(one.count)
            for one in found.tried
        ],
        "held_out": None
        if found.held_out is None
        else {
            "base": _count(found.held_out[0]),
            "steered": _count(found.held_out[1]),
            "reduction": found.held_out[1].reduction_from(found.held_out[0]),
            "reduction_interval": found.held_out[1].reduction_interval(found.held_out[0]),
        },
        "retention": found.kept and found.kept.mean,
        "per_task": found.kept and dict(found.kept.per_task),
        "apart": found.kept
        and {name: {"base": before, "score": after} for name, (before, after) in found.kept.apart.items()},
    }


def _count(count: Count) -> dict[str, float]:
    return {"foreign": count.foreign, "letters": count.letters, "per_1000": count.per_1000}


def _text(found: Tuning) -> str:
    rows = [(tr("factor"), tr("letters per 1,000"), tr("gone, at least")), ("1", f"{found.base.per_1000:.1f}", "")]
    for one in found.tried:
        surely = max(0.0, one.count.reduction_interval(found.base)[0])
        rows.append((f"{one.factor:g}", f"{one.count.per_1000:.1f}", f"{surely:.0%}"))
    lines = table(rows)
    if found.held_out:
        before, after = found.held_out
        lines.append(
            tr(
                "held-out prompts: {before:.1f} -> {after:.1f} ({gone:.0%} gone, at least {surely:.0%})",
                before=before.per_1000,
                after=after.per_1000,
                gone=after.reduction_from(before),
                surely=max(0.0, after.reduction_interval(before)[0]),
            )
        )
    if found.kept:
        lines.append(tr("kept of the other tasks: {kept:.3f}", kept=found.kept.mean))
        lines += table([(f"  {name}", f"{value:.3f}") for name, value in found.kept.per_task.items()])
    if found.kept and found.kept.apart:
        lines.append(tr("right answers to questions that need these scripts (not counted):"))
        lines += table(
            [(f"  {name}", f"{before:.3f} -> {after:.3f}") for name, (before, after) in found.kept.apart.items()]
        )
    if found.text:
        lines.append(f"--steer {found.text}")
    return "\n".join(lines)
