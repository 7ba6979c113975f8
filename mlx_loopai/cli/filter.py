"""`mlx-loopai filter`: cleans Korean text of markup, links, code, emoji and foreign words."""

from __future__ import annotations

import codecs
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from mlx_loopai.cli.output import columns, padded
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

if TYPE_CHECKING:
    from mlx_loopai.text.filter import Cleaned, Policy

_DEFAULT_FIELDS = ("text", "messages.*.content")
_CHUNK_BYTES = 1 << 16


@click.command("filter", short_help="Clean Korean text: HTML, code, emoji, foreign sentences.")
@click.argument("files", nargs=-1, metavar="[FILES|-]...")
@click.option(
    "--field",
    help="JSONL: the field to clean, dotted, * for every element.  [default: text, or messages.*.content]",
)
@click.option(
    "--latin",
    type=click.Choice(["prose", "acronyms", "keep"]),
    default="prose",
    show_default=True,
    help="prose: drop sentences and phrases, keep names and terms; acronyms: drop terms in lower case too.",
)
@click.option("--report", is_flag=True, help="Print what would be removed instead of the text.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document per text: text, removed, purity, ...")
@click.option("--quiet", is_flag=True, help="No warnings on stderr.")
def command(files: tuple[str, ...], field: str | None, latin: str, report: bool, as_json: bool, quiet: bool) -> None:
    """Clean FILES, or standard input (-), and print the result.

    Standard input and a text file are one document each. A .jsonl file gives one line per record and keeps the Latin
    words that the record's own user wrote.
    """
    from mlx_loopai.text.filter import Policy

    run = _Run(policy=Policy(latin=latin), field=field, report=report, as_json=as_json, quiet=quiet)  # type: ignore[arg-type]
    for name in files or ("-",):
        with _opened(name) as stream:
            if name.endswith(".jsonl"):
                run.records(name, stream)
            elif report or as_json:
                run.document(name, stream)
            else:
                run.streamed(name, stream)


@dataclass(frozen=True)
class _Run:
    """One invocation: its policy and where results go."""

    policy: Policy
    field: str | None
    report: bool
    as_json: bool
    quiet: bool

    def document(self, name: str, stream: BinaryIO) -> None:
        """Clean a whole text file and print a document or a report about it."""
        from mlx_loopai.text.filter import clean

        before = "".join(_decoded(_label(name), stream))
        cleaned = clean(before, self.policy)
        if self.as_json:
            _write(_document([before], [cleaned]) + "\n")
        else:
            _write(_report_line(_label(name), [before], [cleaned]))
        self._warn(_label(name), cleaned.removed_share)

    def streamed(self, name: str, stream: BinaryIO) -> None:
        """Clean a text file while it is read, so that the command works in a live pipe."""
        from mlx_loopai.text.filter import Filter

        scanner = Filter(self.policy)
        for chunk in _decoded(_label(name), stream):
            _write(scanner.feed(chunk))
        _write(scanner.close())
        self._warn(_label(name), scanner.removed_share)

    def records(self, name: str, stream: BinaryIO) -> None:
        """Clean the chosen field of each record; one line out for each record in.

        Latin words that the record's user wrote are kept, also when an answer quotes them.
        """
        from mlx_loopai.data.records import user_text
        from mlx_loopai.text.filter import clean
        from mlx_loopai.text.words import quoted_words

        all_before: list[str] = []
        all_cleaned: list[Cleaned] = []
        for number, line in enumerate(stream, start=1):
            place = f"{name}:{number}"
            if not line.strip():
                continue
            record = _parsed(place, line, first=number == 1)
            policy = replace(self.policy, quoted=quoted_words(user_text(record)))
            before: list[str] = []
            cleaned: list[Cleaned] = []

            def cleaned_text(
                text: str,
                policy: Policy = policy,
                before: list[str] = before,
                cleaned: list[Cleaned] = cleaned,
            ) -> str:
                before.append(text)
                cleaned.append(clean(text, policy))
                return cleaned[-1].text

            record = _with_field(record, self._field_of(place, record), cleaned_text, place)
            if self.as_json:
                _write(_document(before, cleaned) + "\n")
            elif not self.report:
                _write(_json_line(record) + "\n")
            for one in cleaned:
                self._warn(place, one.removed_share)
            if self.report and not self.as_json:
                all_before += before
                all_cleaned += cleaned
        if self.report and not self.as_json:
            _write(_report_line(name, all_before, all_cleaned))

    def _field_of(self, place: str, record: object) -> str:
        if self.field:
            return self.field
        keys = record.keys() if isinstance(record, dict) else ()
        for field in _DEFAULT_FIELDS:
            if field.split(".")[0] in keys:
                return field
        found = ", ".join(keys) or "none"
        raise InputError(
            tr(
                "{place}: no field 'text' or 'messages' (fields: {found}); name the field with --field",
                place=place,
                found=found,
            )
        )

    def _warn(self, place: str, removed_share: float) -> None:
        if removed_share > self.policy.max_removed_share and not self.quiet:
            click.echo(
                tr(
                    "{place}: {removed_share:.0%} of the text was removed; generate it again rather than keep the "
                    "holes",
                    place=place,
                    removed_share=removed_share,
                ),
                err=True,
            )


def _label(name: str) -> str:
    return "<stdin>" if name == "-" else name


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    with ExitStack() as stack:
        if name == "-":
            yield sys.stdin.buffer
            return
        try:
            stream = stack.enter_context(Path(name).open("rb"))
        except OSError as error:
            raise InputError(
                tr(
                    "{name}: {strerror}; give a readable file, or - for standard input",
                    name=name,
                    strerror=error.strerror,
                )
            ) from error
        yield stream


def _decoded(label: str, stream: BinaryIO) -> Iterator[str]:
    """The text of a stream as it arrives.

    Raises: InputError with the line when it is not UTF-8, or when it cannot be read.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    read = getattr(stream, "read1", stream.read)
    line = 1
    at_end = False
    while not at_end:
        try:
            data = read(_CHUNK_BYTES)
        except OSError as error:
            raise InputError(
                tr("{label}: {strerror}; give a readable text file", label=label, strerror=error.strerror)
            ) from error
        at_end = not data
        try:
            text = decoder.decode(data, final=at_end)
        except UnicodeDecodeError as error:
            line += error.object.count(b"\n", 0, error.start)
            raise _not_utf8(f"{label}:{line}", error) from error
        line += text.count("\n")
        yield text


def _not_utf8(place: str, error: UnicodeDecodeError) -> InputError:
    byte = error.object[error.start]
    return InputError(
        tr(
            "{place}: byte 0x{byte:02x} is not UTF-8; convert the file first (iconv -f cp949 -t utf-8)",
            place=place,
            byte=byte,
        )
    )


def _parsed(place: str, line: bytes, first: bool) -> Any:
    try:
        text = line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(place, error) from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise InputError(
            tr("{place}: not JSON ({reason}); a .jsonl file holds one JSON object per line", place=place, reason=reason)
        ) from error


def _with_field(value: Any, field: str, change: Callable[[str], str], place: str) -> Any:
    """`value` with `change` applied to the strings that the dotted `field` leads to; `value` itself is left alone.

    Raises: InputError when the path leads nowhere or to something that is not text.
    """

    def walk(node: Any, path: list[str]) -> Any:
        if not path:
            if isinstance(node, str):
                return change(node)
            raise InputError(
                tr(
                    "{place}: field '{field}' holds {name}, not text; choose another --field",
                    place=place,
                    field=field,
                    name=type(node).__name__,
                )
            )
        step, rest = path[0], path[1:]
        if step == "*" and isinstance(node, list):
            return [walk(item, rest) for item in node]
        if isinstance(node, dict) and step in node:
            return {key: walk(item, rest) if key == step else item for key, item in node.items()}
        if isinstance(node, list) and step.isdecimal() and int(step) < len(node):
            return [walk(item, rest) if index == int(step) else item for index, item in enumerate(node)]
        raise InputError(
            tr(
                "{place}: no field '{field}' ('{step}' is missing); name an existing field with --field",
                place=place,
                field=field,
                step=step,
            )
        )

    return walk(value, field.split("."))


def _summary(before: list[str], cleaned: list[Cleaned]) -> dict[str, Any]:
    from mlx_loopai.text.measures import purity, purity_original

    text = "\n".join(one.text for one in cleaned)
    removed: Counter[str] = Counter()
    for one in cleaned:
        removed.update(one.removed)
    return {
        "text": text,
        "removed": dict(removed),
        "purity": purity(text),
        "purity_original": purity_original(text),
        "purity_before": purity("\n".join(before)),
        "removed_share": max((one.removed_share for one in cleaned), default=0.0),
        "too_much_removed": any(one.too_much_removed for one in cleaned),
        "looping": sum(one.looping for one in cleaned),
    }


def _document(before: list[str], cleaned: list[Cleaned]) -> str:
    return _json_line(_summary(before, cleaned))


def _json_line(value: Any) -> str:
    line = json.dumps(value, ensure_ascii=False)
    # A lone surrogate in a field that is not cleaned cannot be written as UTF-8.
    return line if line.isascii() or not any("\ud800" <= char <= "\udfff" for char in line) else json.dumps(value)


def _report_line(label: str, before: list[str], cleaned: list[Cleaned]) -> str:
    summary = _summary(before, cleaned)
    counts = ", ".join(f"{rule} {count}" for rule, count in sorted(summary["removed"].items())) or tr("none")
    rows = [
        (tr("removed"), counts),
        (tr("purity"), f"{summary['purity_before']:.3f} -> {summary['purity']:.3f}"),
    ]
    if summary["looping"]:
        again = tr("{count} (a phrase again and again: generate again)", count=summary["looping"])
        rows.append((tr("looping"), again))
    if damaged := sum(one.too_much_removed for one in cleaned):
        rows.append((tr("damaged"), tr("{count} (too much removed: generate again)", count=damaged)))
    texts = tr("1 text") if len(cleaned) == 1 else tr("{count} texts", count=len(cleaned))
    width = max(columns(name) for name, _ in rows)
    return "\n".join([f"{label}: {texts}", *(f"  {padded(name, width)}  {value}" for name, value in rows), ""])


def _write(text: str) -> None:
    if text:
        # Written as bytes, so that neither the locale nor the platform's line ends change the text.
        click.echo(text.encode(), nl=False)
