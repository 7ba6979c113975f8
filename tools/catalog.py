"""Updates the Korean catalog: the messages found in the code, each with its translation.

Run as `python -m tools.catalog`: it rewrites `mlx_loopai.po` (new messages without a translation are added, messages
that the code no longer has are removed) and compiles `mlx_loopai.mo`, which gettext reads. A test fails when either is
stale.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import click
from babel.messages import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

import mlx_loopai
from mlx_loopai import __version__
from mlx_loopai.cli.language import help_texts
from mlx_loopai.cli.main import COMMANDS, commands
from mlx_loopai.files import write_whole
from mlx_loopai.language import DOMAIN, LOCALES

PACKAGE = Path(mlx_loopai.__file__).parent
# Their messages are in the same catalog.
CONVERTERS = PACKAGE.parent / "converters"
FOLDER = LOCALES / "ko" / "LC_MESSAGES"
PO, MO = FOLDER / f"{DOMAIN}.po", FOLDER / f"{DOMAIN}.mo"
# The first argument of these is a message: `say` is `tr` where a caller chooses the language.
KEYWORDS = {"tr": None, "later": None, "say": None, "_counted": (1, 2)}
# A message, or (singular, plural) of a message with a number that click chooses the form for.
Message = str | tuple[str, str]
# The commands whose help is Korean throughout.
COMMON = (
    "start",
    "demo",
    "train",
    "generate",
    "chat",
    "serve",
    "evaluate",
    "data",
    "export",
    "push",
    "gate",
    "report",
    "watch",
)
_WIDTH = 100
# A fixed day, so that the same messages give the same file.
_BEGUN = datetime(2026, 11, 29, tzinfo=UTC)
_COMMENT = "# Korean of mlx-loopai. Written by hand; `python -m tools.catalog` keeps its list of messages.\n"


def messages() -> dict[Message, set[str]]:
    """Every message with the places that it comes from: files of the package, or a command's help."""
    found: dict[Message, set[str]] = {}
    for place, message in (*_in_code(), *_in_help()):
        found.setdefault(message, set()).add(place)
    return found


def _in_code() -> Iterator[tuple[str, Message]]:
    for package in (PACKAGE, CONVERTERS):
        for file, _, message, _, _ in extract_from_dir(package, [("**.py", "python")], keywords=KEYWORDS):
            yield f"{package.name}/{file}", message if isinstance(message, str) else (message[0], message[1])


def _in_help() -> Iterator[tuple[str, str]]:
    for line in COMMANDS.values():
        yield "mlx_loopai/cli/main.py", line
    shown: dict[str, click.Command] = {"main": commands}
    shown |= {name: importlib.import_module(f"mlx_loopai.cli.{name}").command for name in COMMON}
    for name, command in shown.items():
        for text in help_texts(command):
            yield f"mlx_loopai/cli/{name}.py", text


def translations() -> dict[Message, str]:
    """The messages of the existing catalog, each with its Korean; empty where none is written yet."""
    with PO.open("rb") as file:
        read = read_po(file, "ko", DOMAIN)
    found: dict[Message, str] = {}
    for one in read:
        if one.id:
            message = one.id if isinstance(one.id, str) else (one.id[0], one.id[1])
            found[message] = one.string if isinstance(one.string, str) else (one.string or ("",))[0]
    return found


def catalog(known: Mapping[Message, str]) -> Catalog:
    """A catalog of all present messages, with the Korean that is `known`."""
    made = Catalog(
        "ko",
        DOMAIN,
        header_comment=_COMMENT.strip(),
        project="mlx-loopai",
        version=__version__,
        creation_date=_BEGUN,
        revision_date=_BEGUN,
        fuzzy=False,
    )
    for message, places in messages().items():
        korean = known.get(message, "")
        # Korean has one form for any number.
        made.add(
            message,
            korean if isinstance(message, str) else (korean,),
            locations=[(place, 0) for place in sorted(places)],
        )
    return made


def po_bytes(made: Catalog) -> bytes:
    """The catalog as people edit it."""
    held = io.BytesIO()
    write_po(held, made, width=_WIDTH, include_lineno=False, sort_output=True)
    return held.getvalue()


def mo_bytes(made: Catalog) -> bytes:
    """The catalog as gettext reads it."""
    held = io.BytesIO()
    write_mo(held, made)
    return held.getvalue()


def main() -> None:
    """Rewrite both files."""
    made = catalog(translations() if PO.is_file() else {})
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_whole(PO, po_bytes(made).decode())
    MO.write_bytes(mo_bytes(made))
    missing = [one.id for one in made if one.id and not one.string]
    sys.stdout.write(f"{PO}: {len(made)} messages, {len(missing)} without Korean\n")


if __name__ == "__main__":
    main()
