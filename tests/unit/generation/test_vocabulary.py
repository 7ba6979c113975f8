"""Tokens' bytes, for both kinds of tokenizer that have them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.generation.vocabulary import biased_tokens, token_bytes
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.models.token_bytes import byte_alphabet
from mlx_loopai.text.alphabet import Scripts, char_classes, context_moves
from mlx_loopai.text.utf8 import TokenBytes, byte_automaton, token_moves


def listed(tokens: TokenBytes) -> list[bytes]:
    return [
        tokens.data[start : start + size].tobytes() for start, size in zip(tokens.start, tokens.length, strict=True)
    ]


def byte_fallback(words: list[str], marks: tuple[str, ...] = ("<s>", "</s>")) -> SimpleNamespace:
    """A tokenizer of sentencepiece's kind: marks, then a token for each byte, then words."""
    tokens = [*marks, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return SimpleNamespace(get_vocab=lambda: vocabulary, added_tokens_decoder=dict(enumerate(marks)))


def test_byte_level_tokens_join_to_the_text(tiny: LoadedModel) -> None:
    tokens = listed(token_bytes(tiny.tokenizer))
    text = "안녕하세요. \n\t호랑이 👍 漢 user"
    assert b"".join(tokens[token] for token in tiny.tokenizer.encode(text)).decode() == text
    assert tokens[:3] == [b"", b"", b""]


def test_byte_fallback_tokens() -> None:
    tokens = listed(token_bytes(byte_fallback(["▁가", "나다", "▁▁", "<b>"])))
    assert tokens[:2] == [b"", b""]
    assert tokens[2:258] == [bytes([byte]) for byte in range(256)]
    assert [token.decode() for token in tokens[258:]] == [" 가", "나다", "  ", "<b>"]


def test_byte_fallback_can_be_constrained() -> None:
    tokens = token_bytes(byte_fallback(["▁가", "漢", "▁the", "나銀"]))
    policy = Scripts.parse("ko")
    automaton = byte_automaton(char_classes(policy), context_moves(policy))
    allowed, after = token_moves(automaton, tokens)
    assert allowed[0, 258:].tolist() == [True, False, False, False]
    state = 0
    for byte in "힣".encode():
        assert allowed[state, 2 + byte]
        state = after[state, 2 + byte]
    assert state == 0
    # A lead byte alone leaves the automaton inside a character, where no word may begin.
    inside = after[0, 2 + "힣".encode()[0]]
    assert not allowed[inside, 258]


def test_a_vocabulary_without_some_bytes_can_be_constrained() -> None:
    """From each state of the automaton a token leads on, though bytes that no text holds are no tokens."""
    missing = {0x04, 0x13, 0xC0, 0xC1, 0xF1, 0xF2, 0xF5, 0xFF}
    alphabet = byte_alphabet()
    words = ["<end>", *(char for byte, char in enumerate(alphabet) if byte not in missing)]
    vocabulary = {token: index for index, token in enumerate(words)}
    tokens = token_bytes(SimpleNamespace(get_vocab=lambda: vocabulary, added_tokens_decoder={0: "<end>"}))
    assert listed(tokens)[0] == b""
    for scripts in ("ko", "ko+loanwords+gloss", "ko+latin+han+emoji"):
        policy = Scripts.parse(scripts)
        allowed, _ = token_moves(byte_automaton(char_classes(policy), context_moves(policy)), tokens)
        assert allowed.any(axis=1).all()


def test_other_tokenizers_are_refused() -> None:
    plain = SimpleNamespace(get_vocab=lambda: {"a": 0, "b": 1}, added_tokens_decoder={})
    with pytest.raises(InputError, match="`scripts` off"):
        token_bytes(plain)


def test_biased_tokens_are_foreign_words_only() -> None:
    words = [" walked", "NASA", "kcal", "AI", " the가", "가나", "Pro", " ab"]
    found = biased_tokens(TokenBytes.of([word.encode() for word in words]))
    assert [word for word, biased in zip(words, found, strict=True) if biased] == [" walked", " the가", "Pro"]
    assert found.dtype == np.bool_
