"""Arguments that an error names become flags of the command that ran; control characters are written out."""

from __future__ import annotations

import re
import unicodedata

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.cli import main as cli
from mlx_loopai.cli.wording import one_line, with_flags
from mlx_loopai.errors import InputError


@click.command("demo")
@click.option("--max-tokens", type=int)
@click.option("--set", "overrides", multiple=True)
@click.option("--filter/--no-filter", "filtered", default=True)
def command(max_tokens: int, overrides: tuple[str, ...], filtered: bool) -> None:
    raise InputError(f"`overrides` {overrides[0]}: lower `max_tokens` or name `sources`")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("shorten it, or lower `max_tokens`", "shorten it, or lower --max-tokens"),
        ("`overrides` a=b: no table", "--set a=b: no table"),
        ("give `filter` or `no_filter`", "give --filter or --no-filter"),
        # What the command cannot be given stays what it is: a key of a configuration, another program.
        ("name it under `sources`; run `hf auth login`", "name it under `sources`; run `hf auth login`"),
    ],
)
def test_arguments_become_the_commands_flags(said: str, shown: str) -> None:
    assert with_flags(said, command) == shown


def test_a_group_knows_the_flags_of_its_commands() -> None:
    assert with_flags("`max_tokens`", click.Group("all", {"demo": command})) == "--max-tokens"


def test_an_error_of_a_command_is_shown_with_its_flags(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda self, ctx, name: command)
    assert cli.main(["demo", "--set", "\x1b]52;c;x\x07"]) == 2
    assert capsys.readouterr().err == (
        "mlx-loopai: error: --set \\x1b]52;c;x\\x07: lower --max-tokens or name `sources`\n"
    )


@given(st.text())
def test_nothing_that_steers_a_terminal_is_shown(text: str) -> None:
    shown = one_line(text)
    assert not [char for char in shown if unicodedata.category(char) in ("Cc", "Cs")]
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", shown)
    assert len(shown.splitlines()) <= 1
