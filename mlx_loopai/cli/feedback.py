"""`mlx-loopai feedback`: keep what people think of answers, look at it, and make pairs to learn from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.model_options import chosen_model
from mlx_loopai.cli.output import emit, json_option, padded, progress, quiet_option
from mlx_loopai.cli.rows import columns_option, read_sources, skip_bad_option
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlx_loopai.data.pairs import MadePairs
    from mlx_loopai.generation.prompts import Prompt
    from mlx_loopai.generation.session import Session

_FILE = click.Path(path_type=Path)


@click.group("feedback", short_help="Collect judged answers and make pairs to learn from.")
def command() -> None:
    """Keep what people think of answers, look at it, and make pairs to learn from.

    `mlx-loopai train --data pairs.jsonl --set preference.objective=dpo --out RUN` learns from them.
    """


@command.command("import")
@click.argument("files", nargs=-1, required=True)
@click.option("--to", "target", required=True, type=_FILE, help="The feedback file (JSONL) to append to.")
@columns_option
@skip_bad_option
@json_option
@quiet_option
def import_command(
    files: tuple[str, ...], target: Path, columns: str | None, skip_bad: bool, as_json: bool, quiet: bool
) -> None:
    """Append the judged answers of FILES to --to, in one format; those that it already has are left out.

    FILES are files or folders of rows, or hf:OWNER/NAME[:SPLIT], in the usual formats of TRL, UltraFeedback, Argilla,
    LLaMA-Factory, ms-swift and OpenAI.
    """
    from mlx_loopai.data.feedback import append_feedback, feedback_rows
    from mlx_loopai.data.unanswered import Unanswered

    readings = [reading.checked(skip_bad) for reading in read_sources(files, columns)]
    read = [one for reading in readings for one in reading.judged]
    judged = [one for one in read if not isinstance(one, Unanswered)]
    if not judged:
        raise InputError(tr("{files}: holds no pair of answers and none with a label", files=files[0]))
    added = append_feedback(target, feedback_rows(judged, source="import"))
    ordinary = sum(len(reading.records) for reading in readings) + len(read) - len(judged)
    document = {"out": str(target), "added": added, "known": len(judged) - added, "ordinary_rows": ordinary}
    text = tr(
        "{target}: {added} judged answers added, {known} were there already",
        target=target,
        added=added,
        known=len(judged) - added,
    )
    if ordinary:
        text += tr("; {ordinary} ordinary rows were left out", ordinary=ordinary)
    emit(document, as_json, text)


@command.command("audit")
@click.argument("files", nargs=-1, required=True)
@columns_option
@json_option
def audit_command(files: tuple[str, ...], columns: str | None, as_json: bool) -> None:
    """Show what is in the judged answers of FILES, and what would be learnt besides taste."""
    import dataclasses

    from mlx_loopai.cli.audit_text import asked_text, positions_text
    from mlx_loopai.data.judged_audit import audit_judged
    from mlx_loopai.data.records import left_out

    readings = read_sources(files, columns)
    judged = [one for reading in readings for one in reading.judged]
    bad = [row for reading in readings for row in reading.bad]
    found = audit_judged(judged)
    document = {**dataclasses.asdict(found), "warnings": found.warnings, "bad_rows": bad}
    rows = [
        (tr("pairs"), str(found.pairs)),
        (tr("labelled"), tr("{good} good, {bad} bad", good=found.good, bad=found.bad)),
        (tr("prompts"), str(found.prompts)),
    ]
    if found.chosen_longer is not None:
        longer = tr("the chosen answer in {share:.1%} of the pairs", share=found.chosen_longer)
        rows.append((tr("longer"), longer))
    if found.chosen_purity is not None and found.rejected_purity is not None:
        purities = {"chosen": found.chosen_purity, "rejected": found.rejected_purity}
        rows.append((tr("purity"), tr("chosen {chosen:.3f}, rejected {rejected:.3f}", **purities)))
    if found.best_probability is not None:
        rows.append((tr("positions"), positions_text(found)))
    if found.asked:
        rows.append((tr("asked"), asked_text(found)))
    rows += [(tr("bad rows"), left_out(bad))] if bad else []
    lines = [f"{padded(name, 10)}{value}" for name, value in rows]
    warnings = [tr("warning: {warning}", warning=warning) for warning in found.warnings]
    emit(document, as_json, "\n".join([*lines, *warnings]))


@command.command("stats")
@click.argument("file", type=_FILE)
@json_option
def stats_command(file: Path, as_json: bool) -> None:
    """Count the judged answers of a feedback FILE, by where they come from."""
    from mlx_loopai.data.feedback import feedback_sources
    from mlx_loopai.data.judged_audit import audit_judged
    from mlx_loopai.data.records import read_all

    found, sources = audit_judged(read_all(file).judged), feedback_sources(file)
    document = {
        "pairs": found.pairs,
        "good": found.good,
        "bad": found.bad,
        "positions": found.positions,
        "prompts": found.prompts,
        "sources": sources,
    }
    unknown = tr("unknown")
    named = ", ".join(f"{name or unknown}: {count}" for name, count in sources.items()) or tr("none")
    counted = tr(
        "{pairs} pairs, {good} good and {bad} bad answers to {prompts} prompts",
        pairs=found.pairs,
        good=found.good,
        bad=found.bad,
        prompts=found.prompts,
    )
    if found.positions:
        counted += tr("; {positions} positions in answers", positions=found.positions)
    emit(document, as_json, "\n".join([counted, tr("from {sources}", sources=named)]))


@command.command("pairs")
@click.option(
    "--best-of", type=click.IntRange(2, 64), help="Pair the better half of N answers to each prompt with the worse."
)
@click.option(
    "--korean",
    type=click.IntRange(1, 64),
    help="Pair an answer to each prompt, written in Korean only, with the most foreign of N free ones.",
)
@click.option("--prompts", type=_FILE, help="With --best-of and --korean: .txt with a prompt a line, or .jsonl.")
@click.option(
    "--model",
    help="With --best-of and --korean: nano, a folder or a hub id.  [default: the adapter's own base, or nano]",
)
@click.option("--adapter", type=_FILE, help="With --best-of and --korean: the RUN, or adapter, that answers.")
@click.option(
    "--temperature",
    type=click.FloatRange(0.1, 5),
    default=0.8,
    show_default=True,
    help="With --best-of and --korean: how freely answers are drawn. The best of wild ones are no good examples.",
)
@click.option(
    "--max-tokens", type=click.IntRange(1), default=256, show_default=True, help="With --best-of and --korean."
)
@click.option(
    "--length", default="20:2000", show_default=True, help="With --best-of and --korean: characters of a good answer."
)
@click.option(
    "--gap",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.1,
    show_default=True,
    help="With --best-of: how far two answers differ at least in purity, genre or variety, each from 0 to 1.",
)
@click.option("--judge-url", help="With --best-of: the OpenAI-compatible API of a judge who says which is better.")
@click.option("--judge-model", help="The judge's name at that API. A key is read from MLX_LOOPAI_JUDGE_KEY.")
@click.option(
    "--splice", type=click.FloatRange(0, 1, min_open=True), help="Share of foreign words in rejected answers."
)
@click.option("--data", "data", multiple=True, help="With --splice: rows with clean Korean answers; may be repeated.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", required=True, type=_FILE, help="The JSONL file to write.")
@json_option
@quiet_option
def pairs_command(out: Path, seed: int, as_json: bool, quiet: bool, **given: Any) -> None:
    """Make pairs to learn from, without a person who judges.

    \b
    mlx-loopai feedback pairs --best-of 8 --prompts prompts.txt --out pairs.jsonl   the model's own answers, ranked by
        repetition, Korean letters, length and genre, or by a judge
    mlx-loopai feedback pairs --korean 2 --prompts prompts.txt --out pairs.jsonl    against answers in another language:
        the model's own, with and without other scripts
    mlx-loopai feedback pairs --splice 0.15 --data rows.jsonl --out pairs.jsonl     against foreign words in Korean: the
        same answer with Han or English words put in
    """
    from mlx_loopai.data.feedback import feedback_rows, to_lines
    from mlx_loopai.files import write_whole

    ways = {"best_of": _ranked, "korean": _in_korean, "splice": _spliced}
    asked = [way for name, way in ways.items() if given[name] is not None]
    if len(asked) != 1:
        raise InputError(
            tr("feedback pairs: give --best-of or --korean with --prompts, or --splice with --data; one of the three")
        )
    found, origin = asked[0](given, seed, quiet)
    if not found.pairs:
        raise InputError(tr("feedback pairs: no pair was made; {reasons}", reasons=_reasons(found.dropped)))
    write_whole(out, to_lines(feedback_rows(found.pairs, **origin, seed=seed)))
    made = tr("{out}: {pairs} pairs", out=out, pairs=len(found.pairs))
    text = _made_text(made, found.dropped, f"mlx-loopai train --data {out} --set preference.objective=dpo --out RUN")
    emit({"out": str(out), "pairs": len(found.pairs), "dropped": found.dropped}, as_json, text)


@command.command("positions")
@click.option("--prompts", type=_FILE, required=True, help=".txt with a prompt a line, or .jsonl.")
@click.option(
    "--answers", type=click.IntRange(1, 64), default=2, show_default=True, help="Free answers to each prompt."
)
@click.option("--model", help="nano, a folder or a hub id.  [default: the adapter's own base, or nano]")
@click.option("--adapter", type=_FILE, help="The RUN, or adapter, that answers.")
@click.option(
    "--temperature", type=click.FloatRange(0.1, 5), default=0.7, show_default=True, help="How freely answers are drawn."
)
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", required=True, type=_FILE, help="The JSONL file to write.")
@json_option
@quiet_option
def positions_command(
    prompts: Path, answers: int, out: Path, seed: int, as_json: bool, quiet: bool, **given: Any
) -> None:
    """Find where the model's own answers leave Korean, and score the tokens that it might have written there.

    Of each answer the first such place counts. The 16 likeliest tokens there are each continued by 8, and score 1 where
    no foreign word follows, else 0.
    """
    from mlx_loopai.config import SamplingOptions
    from mlx_loopai.data.feedback import feedback_rows, to_lines
    from mlx_loopai.evaluation.language_positions import find_confusions, score_confusions
    from mlx_loopai.files import write_whole

    session, asked, origin = _answering(given | {"prompts": prompts}, "positions", quiet)
    sampling = SamplingOptions(temperature=given["temperature"], max_tokens=given["max_tokens"], seed=seed)
    with progress(len(asked) * answers, tr("answers"), quiet, unit="answers") as bar:
        places = find_confusions(session, asked, answers, sampling, bar.update)
    with progress(len(places.found), tr("positions"), quiet, unit="positions") as bar:
        made = score_confusions(session, places.found, bar.update)
    dropped = places.dropped | made.dropped
    if not made.positions:
        raise InputError(tr("feedback positions: no position was made; {reasons}", reasons=_reasons(dropped)))
    write_whole(out, to_lines(feedback_rows(made.positions, source="positions", **origin, seed=seed)))
    counted = tr("{out}: {positions} positions", out=out, positions=len(made.positions))
    text = _made_text(counted, dropped, f"mlx-loopai train --data {out} --set preference.objective=tlpo --out RUN")
    emit({"out": str(out), "positions": len(made.positions), "dropped": dropped}, as_json, text)


def _made_text(made: str, dropped: Mapping[str, int], command: str) -> str:
    """What was made, why there is not more, and the command that learns from it."""
    if dropped:
        made += tr("; without one: {reasons}", reasons=_reasons(dropped))
    return made + "\n" + tr("learn with: {command}", command=command)


_Made = tuple["MadePairs", dict[str, Any]]


def _ranked(given: Mapping[str, Any], seed: int, quiet: bool) -> _Made:
    from mlx_loopai.config import SamplingOptions
    from mlx_loopai.evaluation.ranked_pairs import Drafts, ranked_pairs

    length, judge = _length(given["length"]), _judge(given)
    session, prompts, origin = _answering(given, "--best-of", quiet)
    sampling = SamplingOptions(temperature=given["temperature"], top_p=1.0, max_tokens=given["max_tokens"], seed=seed)
    drafts = Drafts(given["best_of"], sampling, length, given["gap"])
    with progress(len(prompts) * drafts.best_of, tr("answers"), quiet, unit="answers") as bar:
        return ranked_pairs(session, prompts, drafts, judge, bar.update), origin | {"source": "rank"}


def _in_korean(given: Mapping[str, Any], seed: int, quiet: bool) -> _Made:
    from mlx_loopai.config import GenerationOptions
    from mlx_loopai.evaluation.language_pairs import OwnAnswers, language_pairs

    length = _length(given["length"])
    session, prompts, origin = _answering(given, "--korean", quiet)
    options = GenerationOptions(temperature=given["temperature"], max_tokens=given["max_tokens"], seed=seed)
    answers = OwnAnswers(given["korean"], options, length)
    with progress(len(prompts) * (1 + answers.free), tr("answers"), quiet, unit="answers") as bar:
        return language_pairs(session, prompts, answers, bar.update), origin | {"source": "korean"}


def _answering(given: Mapping[str, Any], way: str, quiet: bool) -> tuple[Session, list[Prompt], dict[str, Any]]:
    """The model that answers, the prompts, and where the rows come from."""
    from mlx_loopai.generation.prompts import read_prompts
    from mlx_loopai.generation.session import open_session

    if given["prompts"] is None:
        raise InputError(tr("feedback pairs: {way} needs --prompts FILE", way=way))
    prompts = read_prompts(given["prompts"])
    model = chosen_model(given["model"], given["adapter"], quiet)
    adapter = None if given["adapter"] is None else str(given["adapter"])
    return open_session(model, given["adapter"]), prompts, {"model": model, "adapter": adapter}


def _judge(given: Mapping[str, Any]) -> Callable[[str, str, str], bool | None] | None:
    """Who says which of two answers is better; None where that is counted."""
    from mlx_loopai.evaluation.endpoint import KEY_VARIABLE, Endpoint
    from mlx_loopai.evaluation.pairwise import preferring

    if not given["judge_url"] and not given["judge_model"]:
        return None
    if not given["judge_url"] or not given["judge_model"]:
        raise InputError(tr("feedback pairs: a judge needs --judge-url and --judge-model; give both"))
    judge = Endpoint(given["judge_url"], given["judge_model"], key=os.environ.get(KEY_VARIABLE, ""))
    return preferring(judge.chat)


def _spliced(given: Mapping[str, Any], seed: int, quiet: bool) -> _Made:
    from mlx_loopai.data.splicing import spliced_pairs

    if not given["data"]:
        raise InputError(tr("feedback pairs: --splice needs --data FILE"))
    records = [record for reading in read_sources(given["data"], None, kind="rows") for record in reading.required()]
    return spliced_pairs(records, given["splice"], seed), {"source": "spliced"}


def _length(text: str) -> tuple[int, int]:
    low, colon, high = text.partition(":")
    if not colon or not low.isdecimal() or not high.isdecimal() or int(low) > int(high):
        raise InputError(tr("--length {text}: expected FEWEST:MOST characters, such as 20:2000", text=text))
    return int(low), int(high)


def _reasons(dropped: Mapping[str, int]) -> str:
    return "; ".join(f"{reason} ({count})" for reason, count in dropped.items())
