"""`mlx-loopai evaluate`: measures what a model can do, and how much of that is left after fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.figures import noise_line, table
from mlx_loopai.cli.generation_options import adapter_when_option
from mlx_loopai.cli.model_options import adapter_option, chosen_model, model_option
from mlx_loopai.cli.output import emit, json_option, quiet_option, say_next, to_plain
from mlx_loopai.errors import InputError
from mlx_loopai.files import write_whole
from mlx_loopai.language import later, tr

if TYPE_CHECKING:
    from mlx_loopai.generation.session import AdapterWhen
    from mlx_loopai.runs.documents.evaluation import Evaluation

_BASE_COLUMNS = (later("task"), later("n"), later("chance"), later("base"))
_TUNED_COLUMNS = (later("tuned"), later("broken"), later("kept"), later("right->wrong"), later("wrong->right"))
# Whatever a run is measured with, it is measured with all questions of one of these.
_COMMON_SUITES = (None, "nano", "general")
LM_EVAL = "lm-eval:"  # as evaluation.lm_eval, which --help does not import


@click.command("evaluate", short_help="Measure what a model kept of its general ability.")
@model_option
@adapter_option
@adapter_when_option
@click.option("--suite", help="nano, general, a YAML file, or lm-eval:TASK,TASK; by default what suits the model.")
@click.option(
    "--text", "texts", type=click.Path(path_type=Path), help="Score a file of generated texts; no model is loaded."
)
@click.option("--references", type=click.Path(path_type=Path), help="Reference texts for --text, in the same order.")
@click.option(
    "--tokenize",
    type=click.Choice(["char", "ko-mecab"]),
    default="char",
    show_default=True,
    help="The units that BLEU counts.",
)
@click.option("--lid", is_flag=True, help="With --text: pass rates by fastText's language identifier as well.")
@click.option(
    "--english-words", type=click.Path(path_type=Path), help="With --lid: the words that count as English, one a line."
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="Other answers to the prompts of --text; a judge model compares the two.",
)
@click.option("--judge-url", help="The judge's OpenAI-compatible API, such as http://127.0.0.1:8080/v1.")
@click.option("--judge-model", help="The judge's name at that API. A key is read from MLX_LOOPAI_JUDGE_KEY.")
@click.option(
    "--judgements",
    type=click.Path(path_type=Path),
    help="JSONL file that keeps the verdicts. [default: next to --text]",
)
@click.option("--limit", type=click.IntRange(min=1), help="Ask at most N questions per probe (seeded): a quick look.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the JSON document to this file as well.")
@json_option
@quiet_option
def command(
    model: str | None,
    adapter: Path | None,
    adapter_when: AdapterWhen,
    suite: str | None,
    texts: Path | None,
    references: Path | None,
    tokenize: str,
    limit: int | None,
    out: Path | None,
    as_json: bool,
    quiet: bool,
    **text_options: Any,
) -> None:
    """Ask the model questions and judge its free answers.

    With --adapter the base answers them too. The retention then tells how much of the base's ability is left, and it is
    written on the adapter's card. The noise floor is the retention of the base itself with its weights rounded to 8
    bits: below it nobody can tell a model from its base. Of a RUN, what all questions gave is kept in it, for `gate
    RUN` and `report RUN`. The base's answers are kept in ~/.cache/mlx-loopai (or $MLX_LOOPAI_CACHE).

    With --text no model is asked: the texts of a file are scored. With --against a judge model compares them with
    others, pair by pair and in both orders, for consistency (일관성), creativity (창의성), language (언어 품질)
    and genre (장르 적합성).
    """

    _check_out(out)
    for name, given in {"references": references, **text_options}.items():
        if given and texts is None:
            raise InputError(
                tr("--{option}: there is nothing to compare with it; add --text FILE", option=name.replace("_", "-"))
            )
    if texts is not None:
        from mlx_loopai.cli.text_scores import text_document, text_table

        document = text_document(texts, references, tokenize, text_options, quiet)
        text = text_table(document)
    elif suite is not None and suite.startswith(LM_EVAL):
        from mlx_loopai.cli.lm_eval import lm_eval_document, lm_eval_table

        model = chosen_model(model, adapter, quiet)
        document = lm_eval_document(model, adapter, suite, limit, quiet)
        text = lm_eval_table(document)
    else:
        from mlx_loopai.cli.listener import progress_listener
        from mlx_loopai.experiments.evaluate import evaluate, note_on_card

        model = chosen_model(model, adapter, quiet)
        with progress_listener(quiet) as listener:
            found = evaluate(model, adapter, suite, limit=limit, adapter_when=adapter_when, listener=listener)
        note_on_card(found)
        document = found.to_json()
        text = _table(found) + _learnt(adapter)
        if out is None and suite in _COMMON_SUITES and limit is None and adapter_when == "always":
            out = _place_in_run(adapter)
    if out is not None:
        _write(out, document)
    emit(document, as_json, text)
    if adapter is not None:
        say_next(_next(adapter, out), as_json, quiet)


def _learnt(adapter: Path | None) -> str:
    """A line on what the adapter's run learnt, beside what it kept; "" where that was not measured."""
    from mlx_loopai.runs.documents.verdict import JudgedSummary

    run = _run_of(adapter)
    judged = None if run is None else JudgedSummary.of_run(run)
    if judged is None or judged.gain is None:
        return ""
    return "\n" + tr("learnt      {gain:.3f} nats per token on held-out rows, when it was trained", gain=judged.gain)


def _run_of(adapter: Path | None) -> Path | None:
    """The run's folder that `adapter` is, or lies in; None where it is of no run."""
    from mlx_loopai.runs.directory import RunDirectory

    places = [] if adapter is None else [adapter, adapter.parent]
    return next((place for place in places if RunDirectory(place).resolved.is_file()), None)


def _place_in_run(adapter: Path | None) -> Path | None:
    """Where `gate RUN` and `report RUN` look for what was measured with all questions; None where there is no run."""
    from mlx_loopai.runs.directory import RunDirectory

    run = _run_of(adapter)
    return None if run is None else RunDirectory(run).evaluation


def _next(adapter: Path, out: Path | None) -> str:
    place, run = _place_in_run(adapter), _run_of(adapter)
    if place is not None and place.is_file() and out in (None, place):
        return f"gate {run}"
    return f"chat --adapter {adapter}" if out is None else f"gate {out}"


def _check_out(out: Path | None) -> None:
    """Check `out` before the work and not after it. Raises: InputError."""
    if out is None:
        return
    if out.is_dir():
        raise InputError(
            tr("--out {out}: a folder; name a file in it, such as {example}", out=out, example=out / "evaluation.json")
        )
    if not out.absolute().parent.is_dir():
        raise InputError(tr("--out {out}: there is no folder {parent}; make it first", out=out, parent=out.parent))


def _write(out: Path, document: dict[str, Any]) -> None:
    write_whole(out, json.dumps(to_plain(document), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def _tasks(found: Evaluation) -> list[str]:
    """A line of figures for every task, and behind those near chance that they are not counted."""
    tuned = found.tuned is not None
    rows = [[tr(name) for name in (*_BASE_COLUMNS, *(_TUNED_COLUMNS if tuned else (later("broken"),)))]]
    notes = [""]
    for name, task in found.probes.items():
        broken = str(sum((found.tuned or found.base).broken[name].values()))
        row = [name, str(task.n), f"{task.chance:.3f}", f"{task.base:.3f}"]
        row += [f"{task.score:.3f}", broken] if tuned else [broken]
        if tuned and task.counted:
            row += [f"{task.capped:.3f}", str(task.right_to_wrong), str(task.wrong_to_right)]
        rows.append(row + [""] * (len(rows[0]) - len(row)))
        notes.append(tr("(base too near chance: not counted)") if tuned and not task.counted else "")
    return [f"{line.rstrip()}  {note}".rstrip() for line, note in zip(table(rows), notes, strict=True)]


def _table(found: Evaluation) -> str:
    """Task by task, then the text's likelihood, retention and purity."""
    tuned = found.tuned is not None
    lines = _tasks(found)
    for name, text in found.nll.items():
        after = f" -> {text.score:.3f}" if tuned else ""
        lines.append(
            tr(
                "{name}  {base:.3f}{after} nats per token (perplexity {perplexity:.2f})",
                name=name,
                base=text.base,
                after=after,
                perplexity=text.perplexity,
            )
        )
    lines.append("")
    if found.retention is not None and found.retention_interval is not None:
        low, high = found.retention_interval
        lines.append(
            tr(
                "retention   {retention:.3f} (95 % interval {low:.3f} to {high:.3f})",
                retention=found.retention,
                low=low,
                high=high,
            )
        )
        lines.append(tr("worst task  {retention_min:.3f}", retention_min=found.retention_min))
        lines += noise_line(found.noise_floor, found.noise_floor_min)
    if found.purity is not None:
        before = f"{found.base.purity:.3f} -> " if tuned else ""
        lines.append(
            tr("purity      {before}{purity:.3f} (answers to Korean questions)", before=before, purity=found.purity)
        )
    return "\n".join(lines).rstrip()
