"""The constraint on the real Qwen2.5 vocabulary and, where MLX_LOOPAI_REAL names it, the real 0.5B model.

MLX_LOOPAI_REAL_TOKENIZER names the tokenizer's folder; MLX_LOOPAI_REAL_PROSE a text file of Korean fiction.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import regex

from mlx_loopai.generation.vocabulary import token_bytes
from mlx_loopai.models.load import load_model, load_tokenizer
from mlx_loopai.text.alphabet import Scripts, char_classes, context_moves
from mlx_loopai.text.utf8 import byte_automaton, token_moves

TOKENIZER = os.environ.get("MLX_LOOPAI_REAL_TOKENIZER", "")
PROSE = os.environ.get("MLX_LOOPAI_REAL_PROSE", "")
REAL = os.environ.get("MLX_LOOPAI_REAL", "")
FOREIGN = regex.compile(r"[\p{Latin}\p{Han}\p{Hiragana}\p{Katakana}\ufffd]")

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]
needs_tokenizer = pytest.mark.skipif(not TOKENIZER, reason="MLX_LOOPAI_REAL_TOKENIZER names no folder")


def forbidden(scripts: str, texts: list[str]) -> tuple[int, list[str]]:
    """How many tokens `texts` have, and those texts that a policy forbids."""
    tokenizer = load_tokenizer(Path(TOKENIZER))
    policy = Scripts.parse(scripts)
    automaton = byte_automaton(char_classes(policy), context_moves(policy))
    allowed, after = token_moves(automaton, token_bytes(tokenizer))
    count, found = 0, []
    for text in texts:
        state, fits = 0, True
        for token in tokenizer.encode(text, add_special_tokens=False):
            fits = fits and bool(allowed[state, token])
            state = int(after[state, token])
            count += 1
        if not fits or state >= automaton.n_boundaries:
            found.append(text)
    return count, found


@needs_tokenizer
def test_every_syllable_can_be_written() -> None:
    syllables = [chr(code) for code in range(0xAC00, 0xD7A4)]
    assert forbidden("ko", syllables + [f" {syllable}" for syllable in syllables])[1] == []


@needs_tokenizer
@pytest.mark.skipif(not PROSE, reason="MLX_LOOPAI_REAL_PROSE names no text file")
def test_no_token_of_real_fiction_is_forbidden() -> None:
    lines = Path(PROSE).read_text(encoding="utf-8").splitlines()
    count, found = forbidden("ko+latin+han", lines)
    assert count >= 7000
    assert found == []


@pytest.mark.skipif(not REAL, reason="MLX_LOOPAI_REAL names no folder with a real checkpoint")
def test_two_thousand_hot_tokens_are_korean() -> None:
    from mlx_loopai.generation.answers import write_answers
    from mlx_loopai.generation.constraint import Tally, build_constraint
    from mlx_loopai.generation.engine import SamplingOptions
    from mlx_loopai.generation.request import Request

    loaded = load_model(str(Path(REAL) / "q05"), "fp32")
    constraint = build_constraint(loaded, Scripts.parse("ko"))
    prompts = [
        loaded.tokenizer.encode(text)
        for text in ("Write a story about the sea.", "写一个故事", "이야기를 써 줘.", "東京")
    ]
    options = SamplingOptions(temperature=1.5, top_p=1.0, max_tokens=72, seed=3)
    tally = Tally()
    requests = [Request(ids, options, constraint, tally, row) for row, ids in enumerate(prompts * 8)]
    answers = [answer.text for _, answer in write_answers(loaded, requests)]
    assert sum(len(answer.tokens) for answer in answers) >= 2000
    assert [answer.text for answer in answers if FOREIGN.search(answer.text)] == []
    assert np.isfinite(tally.masked_mass)
