"""`mlx-loopai start`: guides a first run from rows or a folder of stories to a verdict, and asks what it must know."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.output import emit, json_option, progress, quiet_option, say_next, waiting
from mlx_loopai.cli.train import judged_text, next_step, short_form, with_report
from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.language import tr
from mlx_loopai.units import format_bytes

if TYPE_CHECKING:
    from mlx_loopai.cli.listener import ShownProgress
    from mlx_loopai.config import RunConfig
    from mlx_loopai.experiments.preview import Preview
    from mlx_loopai.memory.machine import Machine
    from mlx_loopai.runs.context import RunContext
    from mlx_loopai.runs.documents.verdict import JudgedSummary

_PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class _Talk:
    """Prints findings to stderr and asks questions; with `yes` it takes every proposal without asking."""

    yes: bool
    quiet: bool

    def say(self, text: str) -> None:
        if not self.quiet:
            click.echo(text, err=True)

    def ask(self, question: str, default: str | None, flag: str) -> str:
        """The user's answer, or `default` without asking. Raises: InputError if there is neither."""
        if self.yes and default is not None:
            return default
        if self.yes or not sys.stdin.isatty():
            raise InputError(
                tr("start: nobody to ask; give {flag}", flag=flag) + ("" if self.yes else tr(", or --yes"))
            )
        answer: str = click.prompt(question, default=default, err=True)
        return answer

    def agree(self, question: str) -> None:
        """Raises: Abort when the answer is no; InputError when nobody can answer."""
        if self.yes:
            return
        if not sys.stdin.isatty():
            raise InputError(tr("start: nobody to ask; give --yes"))
        click.confirm(question, default=True, abort=True, err=True)

    def wants(self, question: str) -> bool:
        """Whether the answer is yes; no where nobody is asked."""
        return not (self.yes or self.quiet) and sys.stdin.isatty() and click.confirm(question, default=True, err=True)


@click.command("start", short_help="From rows or a folder of stories to a verdict, step by step.")
@click.option("--data", type=_PATH, help="A file or folder of rows or stories, or hf:OWNER/NAME[:SPLIT].")
@click.option("--model", help="nano, a folder or a hub id.  [default: proposed for this machine]")
@click.option("--out", type=_PATH, help="The run's folder.  [default: runs/ and the name of the data]")
@click.option(
    "--set", "overrides", multiple=True, metavar="NAME=VALUE", help="Override any option of the configuration."
)
@click.option("--yes", is_flag=True, help="Take every proposal; ask nothing.")
@json_option
@quiet_option
def command(
    data: Path | None,
    model: str | None,
    out: Path | None,
    overrides: tuple[str, ...],
    yes: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fine-tune a model on your writing, step by step.

    Reads the rows or stories, proposes a model that fits this machine, says how much memory and time training needs,
    writes recipe.yaml into the run's folder, trains with guards, and shows what was kept and learnt. At the end it
    offers to open the report.

    \b
    mlx-loopai start
    mlx-loopai start --data stories --model nano --out runs/first --yes
    """
    from mlx_loopai.cli.listener import progress_listener
    from mlx_loopai.experiments.preview import notes_on_base
    from mlx_loopai.memory.machine import this_machine
    from mlx_loopai.report.assemble import default_place

    talk, machine = _Talk(yes, quiet), this_machine()
    data = data or Path(talk.ask(tr("File or folder with your texts"), None, "--data"))
    out = out or Path(talk.ask(tr("Folder for the result"), str(Path("runs") / data.stem), "--out"))
    _check_free(out)
    _look_at(data, talk)
    config = _configuration(data, model, machine, overrides, talk)
    for note in notes_on_base(config.model):
        talk.say(tr("note: {text}", text=note))
    with progress_listener(quiet) as shown:
        context = _opened(config, out, shown, quiet)
        needs = _needs(context, machine, quiet)
        talk.say(
            tr(
                "memory: {total_bytes} of {budget_bytes}",
                total_bytes=format_bytes(needs.plan.total_bytes),
                budget_bytes=format_bytes(needs.plan.budget_bytes),
            )
        )
        for line in needs.lines:
            talk.say(line)
        talk.agree(tr("Train now?"))
        recipe = _write_recipe(config, out)
        summary = _trained(context, needs, shown)
    more = {"model": config.model, "recipe": recipe, "estimate_s": needs.to_json()["time"]["total_s"]}
    emit(summary.to_json() | more, as_json, judged_text(summary))
    say_next(next_step(summary, out), as_json, quiet)
    report = default_place(out)
    if not as_json and talk.wants(tr("Open the report in your browser?")):
        click.launch(str(report))


def _check_free(out: Path) -> None:
    if (out / "adapter").exists() or (out / "model").exists() or (out / "checkpoints").exists():
        raise InputError(
            tr("--out {out}: holds a run already; give another folder, or mlx-loopai train --resume", out=out)
        )


def _look_at(data: Path, talk: _Talk) -> None:
    """Say what is in the rows, which are read one at a time. Raises: InputError when they cannot be learnt."""
    from mlx_loopai.data.audit import Auditor
    from mlx_loopai.data.learnt import Sifted
    from mlx_loopai.data.records import notices
    from mlx_loopai.data.rows import LONG_BYTES
    from mlx_loopai.data.sources import rows_of, scan_of

    scan = scan_of(str(data), "domain")
    size = scan.size_bytes if scan else 0
    sifted = Sifted()
    shown = progress(size, tr("audit {name}", name=data.name), talk.quiet or size < LONG_BYTES, unit="bytes")
    with Auditor() as auditor, shown as bar:
        for row in sifted.learnt(rows_of(str(data), "domain", scan=scan, on_read=bar.update)):
            auditor.add(row)
        sifted.check(data)
        found = auditor.finished()
    told = notices(scan.path, scan.unused, sifted.bad, scan.left_out_files) if scan else ()
    languages = ", ".join(f"{name} {count}" for name, count in found.languages.items())
    talk.say(
        tr(
            "{data}: {rows} rows ({languages}); the longest has {longest} {length_unit}",
            data=data,
            rows=found.rows,
            languages=languages,
            longest=found.longest,
            length_unit=tr(found.length_unit),
        )
    )
    for note in (*told, *(tr("warning: {warning}", warning=warning) for warning in found.warnings)):
        talk.say(note)


def _configuration(
    data: Path, model: str | None, machine: Machine, overrides: tuple[str, ...], talk: _Talk
) -> RunConfig:
    """A guarded run on `data`, on the base that was named or agreed on."""
    from mlx_loopai.config import load_config
    from mlx_loopai.config.shipped import shipped_values
    from mlx_loopai.experiments.first_run import proposed_base

    how = {"columns": {}, "skip_bad": False, "allow_special": False}
    place = data.resolve() if data.exists() else data  # absolute: relative paths in a recipe start at its folder
    values = shipped_values("guarded") | short_form((place,), None, how)
    talk.say(tr("this machine: {name}, {ram_bytes}", name=machine.name, ram_bytes=format_bytes(machine.ram_bytes)))
    if model is None:
        proposed = proposed_base(load_config(None, overrides, values), machine)
        if proposed is None:
            raise LoopaiError(tr("no released model fits this machine; --model nano always does, as a trial"))
        size = format_bytes(proposed.download_bytes)
        talk.say(
            tr(
                "proposed: {hub_id}, a download of {size} unless it is here, licence {licence}",
                hub_id=proposed.hub_id,
                size=size,
                licence=proposed.licence,
            )
        )
        model = talk.ask(tr("Model"), proposed.hub_id, "--model")
    return load_config(None, overrides, values | {"model": model})


def _opened(config: RunConfig, out: Path, shown: ShownProgress, quiet: bool) -> RunContext:
    """The run's context, its rows read and encoded."""
    from mlx_loopai.runs.context import RunContext
    from mlx_loopai.runs.directory import RunDirectory

    with waiting(tr("opening {model}", model=config.model), quiet):
        context = RunContext.open(config, RunDirectory(out), shown)
    _ = context.rows
    shown.end_stage()
    return context


def _needs(context: RunContext, machine: Machine, quiet: bool) -> Preview:
    """Memory and time; two steps are measured where no rates were published. Raises: LoopaiError when too large."""
    from mlx_loopai.experiments.first_run import speed_by_steps
    from mlx_loopai.experiments.preview import preview_of
    from mlx_loopai.experiments.run_time import speed_of
    from mlx_loopai.memory.speed import peak_of

    found = preview_of(context, machine)
    found.plan.require_fit()
    if peak_of(machine) is not None:
        return found
    with waiting(tr("measuring two steps"), quiet):
        speed = speed_by_steps(str(context.base.path), found.plan, speed_of(machine))
    return preview_of(context, machine, speed)


def _write_recipe(config: RunConfig, out: Path) -> Path:
    """The run as a recipe that `train` takes: what differs from the defaults."""
    import yaml

    from mlx_loopai.files import write_whole

    out.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = config.model_dump(mode="json", exclude_defaults=True)
    written = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    path = out / "recipe.yaml"
    write_whole(
        path, f"# Written by `mlx-loopai start`: mlx-loopai train recipe.yaml --out RUN does the same.\n{written}"
    )
    return path


def _trained(context: RunContext, needs: Preview, shown: ShownProgress) -> JudgedSummary:
    """The run of a context whose rows were read and whose needs were told."""
    from mlx_loopai.experiments.judged_run import judged_in
    from mlx_loopai.experiments.preview import expect
    from mlx_loopai.runs.documents.verdict import JudgedSummary

    heard = replace(context, directory=replace(context.directory, sinks=(shown,)))
    summary = judged_in(heard, begun=lambda recorded: expect(recorded, needs.time))
    if not isinstance(summary, JudgedSummary):
        raise InputError(
            tr("start: judges what it trains; leave `forgetting.questions` and the guards on, or use train")
        )
    return with_report(summary, context.directory.path, shown)
