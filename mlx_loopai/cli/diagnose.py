"""`mlx-loopai diagnose`: see what is inside a tokenizer, a model or an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_loopai.cli.output import emit, json_option, quiet_option
from mlx_loopai.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlx_loopai.diagnostics.tokenizer import TokenizerReport


@click.group("diagnose", short_help="Look inside a tokenizer, a model or an adapter.")
def command() -> None:
    """Look inside a tokenizer, a model or an adapter."""


@command.command("tokenizer")
@click.option(
    "--model", default="nano", show_default=True, help="nano, a folder (tokenizer files are enough), a hub id."
)
@click.option(
    "--text", "files", multiple=True, metavar="NAME=FILE", help="UTF-8 text whose cost is counted; default: ours."
)
@json_option
@quiet_option
def tokenizer_command(model: str, files: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """Say how much of a vocabulary is Korean and what Korean text costs in tokens against English."""
    from mlx_loopai.diagnostics.tokenizer import tokenizer_report
    from mlx_loopai.models.load import load_tokenizer, resolve_model

    texts = {name: [_read(path)] for name, path in map(_pair, files)} or _own_texts()
    found = tokenizer_report(load_tokenizer(resolve_model(model)), texts)
    emit({"model": model, **vars(found)}, as_json, "" if quiet else _tokenizer_text(model, found))


def _own_texts() -> Mapping[str, Sequence[str]]:
    """The embedded hand-written explanations, which exist in both languages."""
    from mlx_loopai.data.samples import texts

    return {
        language: [line for block in texts.blocks(f"knowledge_{name}") for line in block.lines]
        for language, name in (("korean", "ko"), ("english", "en"))
    }


def _pair(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise InputError(f"--text {text}: expected NAME=FILE, such as korean=story.txt")
    return name, Path(path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; give a text file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8; save it as UTF-8") from None


def _tokenizer_text(model: str, found: TokenizerReport) -> str:
    lines = [
        f"{model}: {found.vocabulary} tokens, {found.hangul_share:.1%} of them Hangul; "
        f"{found.syllables_without_token} of 11172 syllables have no token of their own"
    ]
    lines += [f"  {name:<20}{count:>8}" for name, count in found.classes.items()]
    lines += [
        f"{language}: {cost.tokens_per_character:.3f} tokens a character over {cost.characters} characters, "
        f"{cost.broken_share:.1%} of them parts of a character"
        for language, cost in found.cost.items()
    ]
    if {"korean", "english"} <= found.cost.keys():
        lines.append(f"Korean costs {found.relative_cost('korean', 'english'):.1f} times English per character")
    return "\n".join(lines)
