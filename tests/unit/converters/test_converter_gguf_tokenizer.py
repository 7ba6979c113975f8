"""Tokenizers rebuilt from GGUF metadata give the ids of the tokenizer that the metadata came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer

from converters.gguf_tokenizer import rebuild_tokenizer
from mlx_loopai.errors import InputError
from tools.nano import train_tokenizer

LINES = [
    "안녕하세요. 오늘은 날씨가 좋습니다! 123 4567",
    "옛날 옛적에 호랑이가 살았습니다.\n\n  그리고 곰도 살았지요.",
    "It's a fine day; they've said so.",
    "def f(x):\n\treturn x ** 2  # 제곱\n",
    "你好,世界 😀👩‍👩‍👧 ½ café cafe\u0301 \u1112\u1161\u11ab",
    "<|im_start|>user\n질문<|im_end|>\n<tool>x</tool>",
    "   \n \t ",
]


def settings_of(original: Tokenizer, **more: Any) -> dict[str, Any]:
    """What a GGUF exporter writes about `original`, as our header parser gives it."""
    document = json.loads(original.to_str())
    by_id = {number: token for token, number in original.get_vocab(with_added_tokens=True).items()}
    kinds = np.ones(len(by_id) + 2, np.int32)
    for added in document["added_tokens"]:
        kinds[added["id"]] = 3 if added["special"] else 4
    kinds[-2:] = 5
    tokens = [by_id[number] for number in range(len(by_id))] + ["[PAD0]", "[PAD1]"]
    merges = tuple(" ".join(merge) for merge in document["model"]["merges"])
    found = {"model": "gpt2", "pre": "qwen2", "tokens": tuple(tokens), "token_type": kinds, "merges": merges}
    found |= {"eos_token_id": tokens.index("<|im_end|>"), "padding_token_id": tokens.index("<|endoftext|>")}
    return {f"tokenizer.ggml.{key}": value for key, value in (found | more).items()}


@pytest.fixture(scope="module")
def original() -> Tokenizer:
    tokenizer = train_tokenizer(LINES * 3)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("</tool>", normalized=False)])
    return tokenizer


def rebuilt(folder: Path, metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_file(str(rebuild_tokenizer(metadata, "here", folder)[0]))


def test_qwen2(tmp_path: Path, original: Tokenizer) -> None:
    metadata = settings_of(original) | {"tokenizer.chat_template": "{{ messages }}"}
    again = rebuilt(tmp_path, metadata)
    assert again.get_vocab() == original.get_vocab()
    for line in LINES:
        assert again.encode(line).ids == original.encode(line).ids
        assert again.decode(again.encode(line).ids) == original.decode(original.encode(line).ids)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == "{{ messages }}"
    assert (settings["eos_token"], settings["pad_token"]) == ("<|im_end|>", "<|endoftext|>")
    assert "bos_token" not in settings


def test_llama_bpe_takes_three_digits_together_and_begins_with_its_token(tmp_path: Path, original: Tokenizer) -> None:
    start = original.token_to_id("<|endoftext|>")
    again = rebuilt(tmp_path, settings_of(original, pre="llama-bpe", bos_token_id=start, add_bos_token=True))
    assert again.encode("가").ids[0] == start
    assert again.encode("가", add_special_tokens=False).ids == original.encode("가").ids
    split = [word for word, _ in again.pre_tokenizer.pre_tokenize_str("12345 a")]
    assert split == ["123", "45", "Ġa"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "bert"}, "the tokenizer model 'bert'"),
        ({"pre": "viking"}, "'viking' of splitting"),
        ({"pre": None}, "None of splitting"),
        ({"tokens": None}, "without a list of tokens"),
        ({"token_type": None}, "what kind it is"),
        ({"token_type": np.ones(3, np.int32)}, "what kind it is"),
        ({"merges": None}, "without merges"),
        ({"merges": ("not there",)}, "is damaged"),
        ({"merges": ("single",)}, "is damaged"),
        ({"model": "llama", "scores": np.ones(2, np.float32)}, "a score for every token"),
    ],
)
def test_what_cannot_be_rebuilt(tmp_path: Path, original: Tokenizer, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        rebuild_tokenizer(settings_of(original, **change), "here", tmp_path)


def test_sentencepiece(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    text = tmp_path / "text"
    text.write_text("\n".join(line.replace("\n", " ") for line in LINES * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "m"), vocab_size=420, model_type="bpe", byte_fallback=True,
        character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    numbers = range(theirs.get_piece_size())
    kinds = [
        2 if theirs.is_unknown(n) else 3 if theirs.is_control(n) else 6 if theirs.is_byte(n) else 1 for n in numbers
    ]
    metadata = {
        "model": "llama",
        "tokens": tuple(theirs.id_to_piece(n) for n in numbers),
        "scores": np.array([theirs.get_score(n) for n in numbers], np.float32),
        "token_type": np.array(kinds, np.int32),
        "bos_token_id": theirs.bos_id(),
        "eos_token_id": theirs.eos_id(),
        "unknown_token_id": theirs.unk_id(),
    }
    again = rebuilt(tmp_path, {f"tokenizer.ggml.{key}": value for key, value in metadata.items()})
    for line in [*LINES, "처음 보는 글자 쀍 ∮", " leading and  double"]:
        assert again.encode(line).ids == [theirs.bos_id(), *theirs.encode(line)], line
        assert again.decode(theirs.encode(line)) == theirs.decode(theirs.encode(line))


def test_runs_of_spaces_that_a_vocabulary_lists_are_joined(tmp_path: Path) -> None:
    tokens = ("<unk>", "<tool>", "\u2581", "\u2581" * 2, "\u2581" * 3, "a", "b", "<0x0A>")
    metadata = {
        "model": "llama",
        "tokens": tokens,
        "scores": np.array([0, 0, -3, 0, 0, -1, -2, 0], np.float32),
        "token_type": np.array([2, 4, 1, 4, 4, 1, 1, 6], np.int32),
        "unknown_token_id": 0,
        "add_bos_token": False,
        "add_space_prefix": False,
    }
    again = rebuilt(tmp_path, {f"tokenizer.ggml.{key}": value for key, value in metadata.items()})
    for text, pieces in (
        ("a b", "526"),
        ("a  b", "536"),
        ("a   b", "546"),
        ("a <tool> b", "52126"),
    ):
        assert "".join(map(str, again.encode(text).ids)) == pieces, text
        assert again.decode(again.encode(text).ids) == text
