"""`mlx-loopai evaluate --text`: the metrics of a file of generated texts, and a judge model's verdicts on them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_loopai.cli.output import progress
from mlx_loopai.errors import InputError, Interrupted, LoopaiError
from mlx_loopai.language import tr

if TYPE_CHECKING:
    from mlx_loopai.evaluation.endpoint import Endpoint
    from mlx_loopai.evaluation.text_metrics import Generated


def text_document(
    path: Path, references: Path | None, tokenize: str, options: Mapping[str, Any], quiet: bool = False
) -> dict[str, Any]:
    """Every metric of the texts of `path`, and with `options` of the command a language identifier's and a judge's.

    Raises: InputError for unreadable files, numbers that differ, or options that lack another.
    """
    from mlx_loopai.evaluation.text_metrics import read_generated, score_texts

    endpoint = _endpoint(options)
    words = _english_words(options)
    generated = read_generated(path)
    others = read_generated(options["against"]) if endpoint else []
    wanted = [reference.text for reference in read_generated(references)] if references else None
    document = {"text": str(path), **score_texts(generated, wanted, "ko-mecab" if tokenize == "ko-mecab" else "char")}
    if options["lid"]:
        document["fasttext"] = _confusion([one.text for one in generated], words)
    if endpoint:
        document["judge"] = _judged(path, generated, others, endpoint, options, quiet)
    return document


def text_table(document: dict[str, Any]) -> str:
    """The metrics for people, one a line; what could not be computed is left out."""
    lines = [tr("{count} texts of {file}", count=document["n"], file=document["text"])]
    lines += [f"  {name:<26}{_shown(value)}" for name, value in document.items() if isinstance(value, float)]
    lines += [f"  {name}: {signature}" for name, signature in (document["signatures"] or {}).items()]
    if found := document.get("fasttext"):
        rates = ", ".join(f"{name} {found[name]:.3f}" for name in ("lpr", "wpr") if found[name] is not None)
        rates = rates or tr("no line of five words to judge")
        lines.append("  " + tr("by fastText, over {count} texts: {rates}", count=found["n"], rates=rates))
    return "\n".join(lines + _judge_lines(document.get("judge")))


def _judge_lines(judge: dict[str, Any] | None) -> list[str]:
    if judge is None:
        return []
    unreadable = tr("; no verdict on {count}", count=judge["unreadable"]) if judge["unreadable"] else ""
    asked = tr(
        "{model} on {pairs} pairs, each in both orders, against {against}",
        model=judge["model"],
        pairs=judge["pairs"],
        against=judge["against"],
    )
    lines = ["", asked + unreadable]
    for name, one in judge["criteria"].items():
        if one["win_rate"] is None:
            continue
        low, high = one["interval"]
        counts = tr(
            "(95 % interval {low:.3f} to {high:.3f}; {wins} wins, {losses} losses, {ties} ties)",
            low=low,
            high=high,
            wins=one["wins"],
            losses=one["losses"],
            ties=one["ties"],
        )
        lines.append(f"  {name:<26}{one['win_rate']:8.3f} {counts}")
    shares = [f"  {name:<26}{judge[name]:8.3f}" for name in ("agreement", "first_share") if judge[name] is not None]
    return [*lines, *shares, "  " + tr("verdicts are kept in {file}", file=judge["judgements"])]


def _endpoint(options: Mapping[str, Any]) -> Endpoint | None:
    from mlx_loopai.evaluation.endpoint import KEY_VARIABLE, Endpoint

    names = ("against", "judge_url", "judge_model")
    missing = [f"--{name.replace('_', '-')}" for name in names if not options[name]]
    if len(missing) == len(names):
        if options["judgements"]:
            raise InputError(tr("--judgements: there is no judge; add --against, --judge-url and --judge-model"))
        return None
    if missing:
        raise InputError(
            tr("a judge needs --against, --judge-url and --judge-model; add {missing}", missing=", ".join(missing))
        )
    return Endpoint(options["judge_url"], options["judge_model"], key=os.environ.get(KEY_VARIABLE, ""))


def _judged(
    path: Path,
    texts: list[Generated],
    others: list[Generated],
    endpoint: Endpoint,
    options: Mapping[str, Any],
    quiet: bool,
) -> dict[str, Any]:
    from mlx_loopai.evaluation.pairwise import Judgements, judge_pairs, pairs_of

    pairs = pairs_of(texts, others)
    against = options["against"]
    place = options["judgements"] or path.with_name(f"{path.stem}-against-{against.stem}.judgements.jsonl")
    if place.is_dir() or not place.absolute().parent.is_dir():
        raise InputError(tr("--judgements {place}: not a file in a folder that exists; name one", place=place))
    advice = tr("the verdicts so far are kept in {place}; the same command continues", place=place)
    try:
        with progress(2 * len(pairs), tr("judge"), quiet, "verdicts") as bar:
            found = judge_pairs(pairs, endpoint.chat, Judgements(place, endpoint.model), bar.update)
    except KeyboardInterrupt:
        raise Interrupted(advice) from None
    except LoopaiError as error:
        raise type(error)(f"{error}; {advice}") from None
    return {"model": endpoint.model, "against": str(against), "judgements": str(place), **found}


def _english_words(options: Mapping[str, Any]) -> list[str] | None:
    place = options["english_words"]
    if place is None:
        return None
    if not options["lid"]:
        raise InputError(tr("--english-words {place}: only --lid counts by a list; add --lid", place=place))
    try:
        return str(place.read_text(encoding="utf-8")).split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            tr(
                "--english-words {place}: cannot be read: {error}; give a UTF-8 file, a word a line",
                place=place,
                error=error,
            )
        ) from None


def _confusion(texts: list[str], english_words: list[str] | None) -> dict[str, Any]:
    from dataclasses import asdict

    from mlx_loopai.text.language_id import fasttext_identifier, language_confusion

    return asdict(language_confusion(texts, fasttext_identifier(), english_words))


def _shown(value: float) -> str:
    return f"{value:8.3f}" if abs(value) <= 1 else f"{value:8.1f}"
