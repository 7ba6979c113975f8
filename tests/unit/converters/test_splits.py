"""Each way of cutting text: out to a GGUF file, into llama.cpp, and back, with the ids of the tokenizer it came from."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from converters.convert import convert
from converters.gguf_tokenizer import rebuild_tokenizer
from converters.splits import SPLITS, Split, split_name
from converters.writers.target import Target
from mlx_loopai.errors import InputError
from tests.tiny_architectures import CONFIGS, write_architecture

VOCABULARY = 600
BEGIN, END = "<|begin|>", "<|end|>"
WORDS = {
    "Korean": "안녕하세요 옛날에 호랑이가 살았습니다. 그리고, 곰도 ㅋㅋㅋ ‘말’했지요! 3월1일 2026년",
    "English": "It's they'LL DON'T camelCase HTTPServer iPhone naïve ÉCOLE x-ray. (see) a/b/c U.S.A. 1,234.5",
    "Chinese": "你好，世界！ 漢字 日本語の文 第12回",
    "code": "def f(x): return x**2 // 100000 != 3; #comment <div>&amp;</div> a_b\\n 0x1F",
    "signs": "😀👩‍👩‍👧 ½ ² Ⅷ e\u0301 \u200b … — «quote» \u0915\u094d\u0937 ?!?! ///",
}
GAPS = [" ", " ", " ", "", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\n /", " \n\n  "]


def mixed_lines(count: int) -> list[str]:
    """As many lines of Korean, English, Chinese, code and signs, with all sorts of gaps."""
    rng = random.Random(0)
    kinds = [text.split(" ") for text in WORDS.values()]
    return [
        "".join(rng.choice(kinds[number % len(kinds)]) + rng.choice(GAPS) for _ in range(rng.randint(1, 12)))
        for number in range(count)
    ]


def trained(split: Split) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=split.whole_words))
    tokenizer.pre_tokenizer = split.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(END, special=True), AddedToken(BEGIN, special=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(mixed_lines(400), trainer)
    return tokenizer


@pytest.fixture
def model(tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(CONFIGS, "qwen2", CONFIGS["qwen2"] | {"vocab_size": VOCABULARY})
    return write_architecture(tmp_path / "model", "qwen2", tiny_model_folder)


def with_tokenizer(model: Path, tokenizer: Tokenizer) -> Path:
    tokenizer.save(str(model / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "bos_token": BEGIN}
    (model / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return model


EXACT = ["qwen2", "qwen35", "llama-bpe", "smaug-bpe", "gpt-2", "smollm"]


@pytest.mark.parametrize("name", EXACT)
def test_llama_cpp_and_the_way_back_give_the_same_ids(tmp_path: Path, model: Path, name: str) -> None:
    check_ids(tmp_path, model, name, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_the_same_ids_on_ten_thousand_lines(tmp_path: Path, model: Path, name: str) -> None:
    check_ids(tmp_path, model, name, 10_000)


def check_ids(tmp_path: Path, model: Path, name: str, count: int) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    tokenizer = trained(SPLITS[name])
    assert split_name(json.loads(tokenizer.to_str())) == name
    convert(with_tokenizer(model, tokenizer), tmp_path / "m.gguf", target=Target(to="gguf"))
    convert(tmp_path / "m.gguf", tmp_path / "back")
    back = Tokenizer.from_file(str(tmp_path / "back" / "tokenizer.json"))
    theirs = llama_cpp.Llama(str(tmp_path / "m.gguf"), vocab_only=True, verbose=False)
    lines = mixed_lines(count)
    composed = SPLITS[name].composed
    for line, ours, again in zip(lines, tokenizer.encode_batch(lines), back.encode_batch(lines), strict=True):
        # Nobody asked for a beginning: none may come, whatever llama.cpp does for this name by itself.
        assert theirs.tokenize(line.encode(), add_bos=True, special=True) == ours.ids, line
        assert again.ids == (tokenizer.encode(unicodedata.normalize("NFC", line)) if composed else ours).ids, line
    theirs.close()


@pytest.mark.parametrize("name", ["gpt-4o", "kanana2", "tekken"])
def test_a_way_that_llama_cpp_approximates_is_read_and_not_written(tmp_path: Path, model: Path, name: str) -> None:
    tokenizer = trained(SPLITS[name])
    document = json.loads(tokenizer.to_str())
    assert split_name(document) is None
    with pytest.raises(InputError, match="does not know this tokenizer's way of splitting words"):
        convert(with_tokenizer(model, tokenizer), tmp_path / "m.gguf", target=Target(to="gguf"))
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)
    metadata = {
        "model": "gpt2",
        "pre": name,
        "tokens": tuple(tokens),
        "token_type": np.array([3 if token in (BEGIN, END) else 1 for token in tokens], np.int32),
        "merges": tuple(" ".join(merge) for merge in document["model"]["merges"]),
        "add_bos_token": False,
    }
    files = rebuild_tokenizer({f"tokenizer.ggml.{key}": value for key, value in metadata.items()}, "here", tmp_path)
    again = Tokenizer.from_file(str(files[0]))
    for line in mixed_lines(500):
        assert again.encode(line).ids == tokenizer.encode(line).ids, line


def test_names_that_llama_cpp_takes_for_the_same_way_are_read() -> None:
    assert SPLITS["exaone4"] == SPLITS["a.x-4.0"] == SPLITS["gpt-2"]
    assert SPLITS["midm-2.0"] == SPLITS["llama3"]
    assert SPLITS["kanana2"] == SPLITS["gpt-4o"]


@pytest.mark.parametrize("part", ["prefix", "lower", "unknown", "whole words", "twice"])
def test_a_way_that_llama_cpp_does_not_have_is_refused(tmp_path: Path, model: Path, part: str) -> None:
    tokenizer = trained(SPLITS["gpt-2"])
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if part == "prefix":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif part == "lower":
        tokenizer.normalizer = normalizers.Lowercase()
    elif part == "unknown":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split("-", "isolated"), byte_level])
    elif part == "twice":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), *[byte_level] * 2])
    else:
        tokenizer.model.ignore_merges = True
    with pytest.raises(InputError, match="does not know this tokenizer's way of splitting words"):
        convert(with_tokenizer(model, tokenizer), tmp_path / "m.gguf", target=Target(to="gguf"))


def pieces(prefix: bool) -> Tokenizer:
    """A tokenizer of SentencePiece's kind as Llama (with a space in front) and Gemma (without) have it."""
    tokenizer = Tokenizer(models.BPE())
    steps = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    rare = trainers.BpeTrainer(vocab_size=VOCABULARY - 259, show_progress=False, limit_alphabet=150)
    tokenizer.train_from_iterator((text for text in WORDS.values() for _ in range(40)), rare)
    document = json.loads(tokenizer.to_str())
    order = {"".join(pair): rank for rank, pair in enumerate(document["model"]["merges"])}
    words = sorted(document["model"]["vocab"], key=document["model"]["vocab"].__getitem__)
    first = ["<unk>", BEGIN, END, *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {token: number for number, token in enumerate([*first, *words])}
    # SentencePiece knows pieces with a score and no pairs: whatever gives a piece may be joined.
    merges = [
        (rank, word[:cut], word[cut:])
        for word, rank in order.items()
        for cut in range(1, len(word))
        if word[:cut] in vocabulary and word[cut:] in vocabulary
    ]
    tokenizer.model = models.BPE(
        vocabulary, [(left, right) for _, left, right in sorted(merges)], unk_token="<unk>", fuse_unk=True,
        byte_fallback=True,
    )  # fmt: skip
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (BEGIN, END)])
    return tokenizer


@pytest.mark.parametrize("prefix", [True, False], ids=["Llama", "Gemma"])
def test_pieces_with_and_without_a_space_in_front(tmp_path: Path, model: Path, prefix: bool) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    tokenizer = pieces(prefix)
    convert(with_tokenizer(model, tokenizer), tmp_path / "m.gguf", target=Target(to="gguf"))
    convert(tmp_path / "m.gguf", tmp_path / "back")
    back = Tokenizer.from_file(str(tmp_path / "back" / "tokenizer.json"))
    theirs = llama_cpp.Llama(str(tmp_path / "m.gguf"), vocab_only=True, verbose=False)
    for line in mixed_lines(500):
        ids = tokenizer.encode(line).ids
        assert theirs.tokenize(line.encode(), add_bos=True, special=True) == ids, line
        assert back.encode(line).ids == ids, line
    theirs.close()


@pytest.mark.parametrize("part", ["lower", "first"])
def test_pieces_of_a_text_that_is_changed_otherwise_are_refused(tmp_path: Path, model: Path, part: str) -> None:
    tokenizer = pieces(True)
    if part == "lower":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    else:
        document = json.loads(tokenizer.to_str()) | {"normalizer": None}
        document["pre_tokenizer"] = {
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False,
        }  # fmt: skip
        tokenizer = Tokenizer.from_str(json.dumps(document))
    with pytest.raises(InputError, match="does not know what this tokenizer does to a text first"):
        convert(with_tokenizer(model, tokenizer), tmp_path / "m.gguf", target=Target(to="gguf"))
