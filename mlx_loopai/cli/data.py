"""`mlx-loopai data`: look at training data, turn JSON answers into natural text, build a balanced set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_loopai.cli.audit_text import NotRead, audit_text, counts_text
from mlx_loopai.cli.output import emit, json_option, progress, quiet_option
from mlx_loopai.cli.rows import columns_option, fields_not_used, read_sources, skip_bad_option, source_options
from mlx_loopai.errors import InputError
from mlx_loopai.language import later, tr

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_loopai.data.audit import Audit, Auditor
    from mlx_loopai.data.build import DataSet
    from mlx_loopai.data.records import Record

_FILES = click.Path(path_type=Path)
# How many rows are shown, and how many characters of each.
_PREVIEW, _PREVIEW_CHARS = 5, 90
# More passes over the same rows than this, and a model learns them by heart.
_MOST_PASSES = 10


@click.group("data", short_help="Audit, reshape and build training data.")
def command() -> None:
    """Look at training data before training, and build a balanced set from it."""


@command.command("audit")
@click.argument("files", nargs=-1, required=True)
@click.option("--validation", type=_FILES, help="Held-out rows; training rows that are among them are reported.")
@click.option("--model", help="Count lengths in this model's tokens: nano, a folder or a hub id.")
@columns_option
@json_option
@quiet_option
def audit_command(
    files: tuple[str, ...], validation: Path | None, model: str | None, columns: str | None, as_json: bool, quiet: bool
) -> None:
    """Show what is in FILES: languages, JSON answers, markup, repeats, leaks, personal data, lengths.

    FILES are files or folders of rows, stories, or data sets on the hub (hf:OWNER/NAME[:SPLIT]).
    """
    from mlx_loopai.data.audit import Auditor
    from mlx_loopai.data.records import left_out, read_records

    held_out = read_records(validation) if validation else []
    with Auditor(_token_counter(model)) as auditor:
        seen = _audit_all(files, columns, auditor, quiet)
        if not len(auditor) and not len(auditor.preferences):
            reason = tr("bad rows only, {left_out}", left_out=left_out(seen.bad)) if seen.bad else tr("no rows")
            raise InputError(tr("{path}: holds {why}; give a file with at least one", path=files[0], why=reason))
        found = auditor.finished(held_out)
    document = _audit_document(files, found) | {"bad": seen.bad, "unused_fields": sorted(seen.unused)}
    emit(document, as_json, audit_text(found, seen))


def _audit_all(files: tuple[str, ...], columns: str | None, auditor: Auditor, quiet: bool) -> NotRead:
    """Let `auditor` look at every row of the files, a row at a time."""
    from mlx_loopai.data.records import BadRow
    from mlx_loopai.data.sources import reading_of, scan_of

    seen = NotRead()
    for file in files:
        how = source_options(file, columns)
        scan = scan_of(file, "domain", how)
        if scan is None:
            reading = reading_of(file, "domain", how)
            for row in (*reading.records, *reading.judged):
                auditor.add(row)
            continue
        with progress(scan.size_bytes, tr("audit {name}", name=scan.path.name), quiet, unit="bytes") as bar:
            for read in scan.rows(bar.update):
                if isinstance(read, BadRow):
                    seen.bad.append(read)
                else:
                    auditor.add(read)
        seen.unused |= scan.unused.keys()
    return seen


@command.command("convert")
@click.argument("files", nargs=-1, required=True)
@click.option("--out", required=True, type=_FILES, help="The JSONL file to write.")
@columns_option
@skip_bad_option
@json_option
@quiet_option
def convert_command(
    files: tuple[str, ...], out: Path, columns: str | None, skip_bad: bool, as_json: bool, quiet: bool
) -> None:
    """Write FILES as chat rows, with JSON answers turned into the prose or dialogue inside them.

    Rows with an empty answer are left out and listed. FILES are files or folders of rows, or hf:OWNER/NAME[:SPLIT].
    """
    from mlx_loopai.data.build import to_line
    from mlx_loopai.data.nested import natural_record
    from mlx_loopai.files import write_whole
    from mlx_loopai.text.measures import json_shaped

    readings = read_sources(files, columns, kind="rows")
    records = [record for reading in readings for record in reading.required(skip_bad, skip_empty=True)]
    natural = [natural_record(record) for record in records]
    still_json = [
        record.origin
        for record, _ in natural
        if any(message.role == "assistant" and json_shaped(message.content) for message in record.messages)
    ]
    write_whole(out, "".join(to_line(record) for record, _ in natural))
    changed = sum(count > 0 for _, count in natural)
    text = tr(
        "{out}: {rows} rows, {changed} of them turned into natural text",
        out=out,
        rows=len(natural),
        changed=changed,
    )
    if still_json:
        text += tr(
            "; {n} still look like JSON, such as {example}: edit or drop them",
            n=len(still_json),
            example=still_json[0],
        )
    text = "\n".join([text, *(notice for reading in readings for notice in reading.notices)])
    document = {
        "out": str(out),
        "rows": len(natural),
        "reshaped": changed,
        "still_json": still_json,
        "left_out": [row for reading in readings for row in reading.bad],
        "unused_fields": fields_not_used(readings),
    }
    emit(document, as_json, text)


@command.command("build")
@click.option(
    "--source", "sources", multiple=True, required=True, metavar="CATEGORY=FILE", help="Rows of a category; repeatable."
)
@click.option("--count", "counts", multiple=True, metavar="CATEGORY=N", help="Rows to draw (15000/8000/5000/3000).")
@click.option("--out", required=True, type=_FILES, help="The folder to write.")
@click.option("--validation-share", default=0.02, show_default=True, type=click.FloatRange(0, 0.5))
@click.option(
    "--replay-share",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0, 0.9),
    help="Share of rehearsal in the recipe.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@columns_option
@skip_bad_option
@json_option
@quiet_option
def build_command(
    sources: tuple[str, ...],
    counts: tuple[str, ...],
    out: Path,
    validation_share: float,
    replay_share: float,
    seed: int,
    columns: str | None,
    skip_bad: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Build a balanced set: one file for each category, held-out rows, and a recipe with three phases.

    Where there are too many rows some are drawn; where there are too few they repeat evenly. The summary shows how
    often.
    """
    from mlx_loopai.data.build import DEFAULT_COUNTS, build
    from mlx_loopai.data.sources import reading_of

    named = [_pair(source, "--source") for source in sources]
    categories = {category for category, _ in named}
    unknown = sorted((categories | {name for name, _ in map(_count_pair, counts)}) - DEFAULT_COUNTS.keys())
    if unknown:
        raise InputError(
            tr("unknown category {unknown}; there are {known}", unknown=unknown[0], known=", ".join(DEFAULT_COUNTS))
        )
    wanted = {name: n for name, n in DEFAULT_COUNTS.items() if name in categories} | dict(map(_count_pair, counts))
    how = source_options(named[0][1], columns, skip_bad, kind="rows")
    readings = [reading_of(file, category, how) for category, file in named]
    records = [record for reading in readings for record in reading.required(skip_bad)]
    built = build(records, wanted, validation_share, seed)
    paths = _write_set(out, built, replay_share)
    document = {
        "out": str(out),
        "files": {name: str(path) for name, path in paths.items()},
        "validation_rows": len(built.validation),
        "reshaped": built.reshaped,
        "categories": {
            name: {"found": share.found, "unique": share.unique, "drawn": share.drawn, "passes": share.passes}
            for name, share in built.shares.items()
            if share.drawn
        },
        "left_out": [row for reading in readings for row in reading.bad],
        "unused_fields": fields_not_used(readings),
    }
    text = "\n".join([*(notice for reading in readings for notice in reading.notices), _build_text(document)])
    emit(document, as_json, text)


@command.command("from-texts")
@click.argument("paths", nargs=-1, required=True, type=_FILES)
@click.option("--out", required=True, type=_FILES, help="The JSONL file to write.")
@click.option("--genre", default="", help="Named in the requests, such as 판타지 소설; otherwise 소설 or story.")
@click.option(
    "--scene-chars",
    default=700,
    show_default=True,
    type=click.IntRange(min=50),
    help="Length of a scene, roughly, in characters.",
)
@json_option
@quiet_option
def from_texts_command(
    paths: tuple[Path, ...], out: Path, genre: str, scene_chars: int, as_json: bool, quiet: bool
) -> None:
    """Turn stories into rows: files or folders of .txt, .md, .docx and .epub.

    A story is cut into scenes where its writer paused, and every scene answers a request for just that scene.
    Repeats, page numbers and notices are left out.
    """
    from mlx_loopai.data.build import to_line
    from mlx_loopai.data.stories.reading import story_files
    from mlx_loopai.data.stories.rows import StoryOptions, story_rows
    from mlx_loopai.files import write_whole

    files = story_files(list(paths))
    with progress(len(files), tr("reading stories"), quiet, unit=later("files")) as bar:
        found = story_rows(files, StoryOptions(scene_chars, genre), bar.update)
    write_whole(out, "".join(map(to_line, found.records)))
    pairs = [[message.content for message in row.messages] for row in found.records[:_PREVIEW]]
    document = {
        "out": str(out),
        "rows": len(found.records),
        "files": found.files,
        "scenes": found.scenes,
        "duplicates": found.duplicates,
        "dropped_lines": found.dropped_lines,
        "encodings": found.encodings,
        "preview": [{"request": request, "answer": answer} for request, answer in pairs],
    }
    emit(document, as_json, _from_texts_text(document))


def _from_texts_text(document: dict[str, Any]) -> str:
    lines = []
    for row in document["preview"]:
        lines += [f"> {_one_line(row['request'])}", f"  {_one_line(row['answer'])}", ""]
    files = tr("{count} files ({encodings})", count=document["files"], encodings=counts_text(document["encodings"]))
    lines.append(
        tr(
            "{out}: {rows} rows from {files}",
            out=document["out"],
            rows=document["rows"],
            files=files,
        )
    )
    if document["duplicates"]:
        lines.append(tr("{n} repeated scenes are left out", n=document["duplicates"]))
    if document["dropped_lines"]:
        lines.append(
            tr(
                "{n} lines were page numbers, headers or notices and are left out",
                n=document["dropped_lines"],
            )
        )
    return "\n".join([*lines, tr("train with: mlx-loopai train --data {out} --out RUN", out=document["out"])])


def _one_line(text: str) -> str:
    short = " ".join(text.split())
    return short if len(short) <= _PREVIEW_CHARS else f"{short[:_PREVIEW_CHARS]}…"


def _write_set(out: Path, built: DataSet, replay_share: float) -> dict[str, Path]:
    import yaml

    from mlx_loopai.data.build import recipe, to_line
    from mlx_loopai.files import write_whole

    if (out / "recipe.yaml").exists():
        raise InputError(tr("{out}: holds a built set; give another --out or remove it", out=out))
    out.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, rows in (*built.rows.items(), ("validation", built.validation)):
        if rows:
            paths[name] = out / f"{name}.jsonl"
            write_whole(paths[name], "".join(map(to_line, rows)))
    files = {name: path.name for name, path in paths.items() if name != "validation"}
    values = recipe(files, "validation.jsonl" if built.validation else "", replay_share)
    # The recipe is written last, so that where it exists the set is complete.
    paths["recipe"] = out / "recipe.yaml"
    write_whole(paths["recipe"], yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return paths


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise InputError(
            tr("{option} {text}: expected CATEGORY=VALUE, such as dialogue=talks.jsonl", option=option, text=text)
        )
    return name, value


def _count_pair(text: str) -> tuple[str, int]:
    name, value = _pair(text, "--count")
    if not value.isdigit():
        raise InputError(tr("--count {text}: {value} is not a number of rows; give 0 or more", text=text, value=value))
    return name, int(value)


_UNITS = (later("characters"), later("tokens"))


def _token_counter(model: str | None) -> Callable[[Record], int] | None:
    if model is None:
        return None
    from mlx_loopai.data.tokens import ChatEncoder
    from mlx_loopai.models.load import load_tokenizer, resolve_model

    encoder = ChatEncoder(load_tokenizer(resolve_model(model)))
    return lambda record: len(encoder.encode(record).ids)


def _audit_document(files: tuple[str, ...], found: Audit) -> dict[str, Any]:
    import dataclasses

    return {"files": list(files), **dataclasses.asdict(found), "warnings": found.warnings}


def _build_text(document: dict[str, Any]) -> str:
    lines = [
        tr(
            "{name:<10} {drawn:>6} rows: {passes:.2f} passes over {unique} of {found}",
            name=name,
            drawn=share["drawn"],
            passes=share["passes"],
            unique=share["unique"],
            found=share["found"],
        )
        for name, share in document["categories"].items()
    ]
    lines += [
        tr(
            "warning: {name}: {passes:.0f} passes over the same rows; the model would learn them by heart: add rows, or"
            " ask for fewer with --count {name}={fewer}",
            name=name,
            passes=share["passes"],
            fewer=_MOST_PASSES * share["unique"],
        )
        for name, share in document["categories"].items()
        if share["passes"] > _MOST_PASSES
    ]
    lines.append(
        tr(
            "validation {rows:>6} rows; {reshaped} JSON answers made natural",
            rows=document["validation_rows"],
            reshaped=document["reshaped"],
        )
    )
    return "\n".join(
        [*lines, tr("train with: mlx-loopai train {recipe} --out RUN", recipe=document["files"]["recipe"])]
    )
