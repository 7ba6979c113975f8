from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_loopai.cli.diagnose import command
from mlx_loopai.diagnostics.tokenizer import token_class, tokenizer_report
from mlx_loopai.errors import InputError


class FourTokens:
    """Decodes id n to the n-th of four strings; a text is as many tokens as it has characters."""

    strings = ("가", " 나", "ab", "\ufffd")

    def get_vocab(self) -> dict[str, int]:
        return {text: number for number, text in enumerate(self.strings)}

    def decode(self, ids: list[int]) -> str:
        return "".join(self.strings[number] for number in ids)

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [3 if char == "!" else 0 for char in text]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (" 가", "hangul"),
        ("가a", "mixed"),
        ("12 ", "no letters"),
        ("", "no letters"),
        ("가\ufffd", "part of a character"),
    ],
)
def test_token_class(text: str, name: str) -> None:
    assert token_class(text) == name


def test_report_on_a_vocabulary_that_can_be_counted_by_hand() -> None:
    found = tokenizer_report(FourTokens(), {"korean": ["가나!", "다"], "english": ["abcdefgh"], "none": []})
    assert found.classes == {"hangul": 2, "latin": 1, "part of a character": 1}
    assert (found.vocabulary, found.hangul_share, found.syllables_without_token) == (4, 0.5, 11_170)
    assert (found.cost["korean"].tokens, found.cost["korean"].broken_share) == (4, 0.25)
    assert found.relative_cost("korean", "english") == 1
    assert found.cost["none"].tokens_per_character == 0


def test_command_counts_the_users_own_text(tmp_path: Path) -> None:
    path = tmp_path / "글.txt"
    path.write_text("안녕하세요. 반갑습니다.", encoding="utf-8")
    result = CliRunner().invoke(command, ["tokenizer", "--text", f"korean={path}", "--json"])
    document = json.loads(result.stdout)
    assert (document["vocabulary"], document["cost"]["korean"]["characters"]) == (4096, 13)
    assert sum(document["classes"].values()) == 4096


def test_command_compares_with_english_by_itself() -> None:
    result = CliRunner().invoke(command, ["tokenizer"])
    assert "times English" in result.stdout


@pytest.mark.parametrize(("value", "says"), [("a.txt", "expected NAME=FILE"), ("a=/nowhere", "cannot be read")])
def test_wrong_files_are_named(value: str, says: str) -> None:
    result = CliRunner().invoke(command, ["tokenizer", "--text", value])
    assert isinstance(result.exception, InputError)
    assert says in str(result.exception)
