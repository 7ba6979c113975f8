from __future__ import annotations

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.errors import InputError
from mlx_loopai.models.token_bytes import BYTE_TOKENS, byte_alphabet, bytes_of_tokens
from mlx_loopai.models.token_scripts import SCRIPTS, scripts_written


@pytest.mark.parametrize(
    ("token", "scripts"),
    [
        ("你好".encode(), {"han"}),
        (" 中".encode(), {"han"}),
        ("の人".encode(), {"kana", "han"}),
        (b"word", {"latin"}),
        ("Привет".encode(), {"cyrillic"}),
        ("한글".encode(), set()),
        ("한글漢字".encode(), set()),
        ("， 。".encode(), set()),
        (b"12 .", set()),
        ("👍".encode(), set()),
        ("ー".encode(), set()),
        # Beginnings of characters: E5 is Han, EB is Hangul, EA and E3 are shared, E3 81 is Hiragana.
        (b"\xe5", {"han"}),
        (b" \xe4\xb8", {"han"}),
        (b"\xe4", {"han"}),
        (b"\xe3\x81", {"kana"}),
        (b"\xe3\x83", {"kana"}),
        (b"\xd0", {"cyrillic"}),
        (b"\xeb\xb6", set()),
        (b"\xea", set()),
        (b"\xe3", set()),
        (b"\xf0\x9f", set()),
        # Rests of characters whose beginning is another token's.
        (b"\xbd\xa0", set()),
        (b"\x80", set()),
        (b"\x80\xe5\xa4\xa9", {"han"}),
        (b"\x80" + "가".encode() + b"\xe5", set()),
        (b"", set()),
        (b"\xff", set()),
    ],
)
def test_what_a_token_writes(token: bytes, scripts: set[str]) -> None:
    assert scripts_written(token) == scripts


@given(st.text(alphabet=st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3) | st.sampled_from(" .,!?0123…“”")))
def test_no_piece_of_korean_is_touched(text: str) -> None:
    data = text.encode()
    for start in range(len(data)):
        for end in range(start + 1, min(len(data), start + 7) + 1):
            assert scripts_written(data[start:end]) == frozenset()


@given(st.text(max_size=8))
def test_whole_tokens_count_by_their_letters(text: str) -> None:
    has = {name for name in SCRIPTS if regex.search(_pattern(name), text)}
    expected = set() if regex.search(r"[\p{Hangul}&&\p{L}]", text, regex.V1) else has
    assert scripts_written(text.encode()) == expected


def _pattern(name: str) -> str:
    script = r"[\p{Hiragana}\p{Katakana}]" if name == "kana" else rf"\p{{{name.capitalize()}}}"
    return rf"(?V1)[{script}&&\p{{L}}]"


def test_both_spellings_of_bytes() -> None:
    alphabet = byte_alphabet()
    words = dict(enumerate([*alphabet, "".join(alphabet[byte] for byte in "가".encode())]))
    tokens = bytes_of_tokens(words, "here")
    assert [tokens[index] for index in range(256)] == [bytes([byte]) for byte in range(256)]
    assert tokens[256] == "가".encode()
    fallback = dict(enumerate([*BYTE_TOKENS, "▁가"]))
    assert bytes_of_tokens(fallback, "here")[0xE5] == b"\xe5"
    assert bytes_of_tokens(fallback, "here")[256] == " 가".encode()
    for words in (["가"], [*alphabet, "가"], list("abc"), [char for char in alphabet if char != alphabet[0x8A]]):
        with pytest.raises(InputError, match="here: the vocabulary is neither"):
            bytes_of_tokens(dict(enumerate(words)), "here")


def test_bytes_that_no_korean_text_holds_may_be_missing() -> None:
    """SmolLM2's vocabulary lacks these; it is byte-level BPE for all that."""
    missing = {0x04, 0x06, 0x13, 0x1D, 0xC0, 0xC1, 0xF1, 0xF5, 0xFF}
    words = [char for byte, char in enumerate(byte_alphabet()) if byte not in missing]
    tokens = bytes_of_tokens(dict(enumerate(words)), "here")
    assert set(tokens.values()) == {bytes([byte]) for byte in range(256) if byte not in missing}
