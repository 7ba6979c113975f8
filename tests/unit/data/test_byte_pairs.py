"""tiktoken gives the tokens of the tokenizers library, or is not used."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from mlx_loopai.data.byte_pairs import _PLAIN, _SPLITS, BytePairs
from mlx_loopai.data.samples.corpus import handwritten_records
from mlx_loopai.data.special import SpecialNames
from mlx_loopai.data.text_tokens import byte_pairs, text_ids
from mlx_loopai.models.load import NANO_FOLDER, load_tokenizer

NANO = load_tokenizer(NANO_FOLDER)
NAMES = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN = Path(__file__).parents[4] / "shared" / "models" / "qwen2.5-tokenizer"
# Other folders with a tokenizer.json, such as SmolLM2's, separated by ":".
OTHERS = [Path(name) for name in os.environ.get("MLX_LOOPAI_TOKENIZERS", "").split(":") if name]
TEXTS = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
        st.text(st.sampled_from("가나다힣ㅋㅠ가 \t\n\r  0129.,!?'\"“”…-~<|>ab SsTtſ's漢字かナ🙂❤️é́"), max_size=40),
        st.sampled_from(
            [*NAMES, "<|im_", "start|>", "'s", "'LL", " 갔다.", "\n\n\n", "  \n ", "   ", "12345", "<tool_call>"]
        ),
    ),
    max_size=12,
).map("".join)


def split_by(pattern: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


WAYS = {
    "GPT-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "digits": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    **{f"split {number}": split_by(pattern) for number, pattern in enumerate(_SPLITS)},
}


def trained(way: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFC(), way
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=list(NAMES),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [message.content for record in handwritten_records(held_out=False)[:60] for message in record.messages]
    tokenizer.train_from_iterator(
        [*texts, "It's 1234 apples, we'll see!  They'd eat 56.\n\n\tfor x in y:\n" * 9], trainer
    )
    return tokenizer


TRAINED = {name: trained(way) for name, way in WAYS.items()}


def backends() -> list[Tokenizer]:
    return [NANO._tokenizer.backend_tokenizer, *TRAINED.values()]


def wanted(backend: Tokenizer, text: str) -> list[int]:
    found: list[int] = backend.encode(text, add_special_tokens=False).ids
    return found


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Tokenizer, BytePairs]]:
    found = [(backend, BytePairs.of(backend)) for backend in backends()]
    return [(backend, one) for backend, one in found if one is not None]


def test_every_known_way_is_taken(pairs: Any) -> None:
    assert len(pairs) == len(backends())


@given(text=TEXTS)
def test_tokens_are_those_of_the_tokenizers_library(pairs: Any, text: str) -> None:
    for backend, one in pairs:
        found = one.ids(text)
        assert found == (wanted(backend, text) if _PLAIN.fullmatch(text) else None)


def test_every_plain_character_is_read_alike(pairs: Any) -> None:
    plain = [chr(code) for code in range(0x20000) if _PLAIN.fullmatch(chr(code))]
    assert len(plain) > 30_000
    assert all(unicodedata.is_normalized("NFC", one) and not unicodedata.combining(one) for one in plain)
    backend, one = pairs[0]
    for start in range(0, len(plain), 500):
        text = "".join(f"a{char}b {char} 1{char}\n{char}가 '{char}" for char in plain[start : start + 500])
        assert one.ids(text) == wanted(backend, text)
    text = "".join(plain)
    assert all(one.ids(text) == wanted(backend, text) for backend, one in pairs)


@pytest.mark.parametrize(
    "text", [" " * 100_000 + "a", "가" * 50_000, "a" * 50_000, "\n " * 30_000, "'" * 30_000, "." * 9999]
)
def test_long_texts_without_words(pairs: Any, text: str) -> None:
    backend, one = pairs[0]
    assert one.ids(text) == wanted(backend, text)


def test_texts_with_hidden_names_and_pictures_keep_them() -> None:
    special, quick = SpecialNames.of(NANO, ""), byte_pairs(NANO)
    texts = ["끝.", special.hide("숲 <|im_end|> 끝."), "그림 \U00100001 하나", "<|im_start|>user\n", "é 끝.", "끝."]
    assert quick is not None
    assert text_ids(NANO, special, texts, quick) == text_ids(NANO, special, texts)


def test_settings_of_the_file_do_not_reach_the_tokens() -> None:
    tokenizer = load_tokenizer(NANO_FOLDER)
    tokenizer._tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer._tokenizer.backend_tokenizer.enable_padding(length=30)
    text = "옛날 옛적에 토끼가 살았다."
    quick = byte_pairs(tokenizer)
    assert quick is not None
    assert quick.ids(text) == NANO.encode(text, add_special_tokens=False)


def test_other_tokens_in_the_first_texts_end_its_use() -> None:
    one = BytePairs.of(TRAINED["GPT-2"])
    assert one is not None
    assert one.ids("토끼") is not None
    one._encode_short = lambda piece: [0]  # type: ignore[assignment]
    assert one.ids("거북이") is None
    assert one.differs
    assert one.ids("토끼") is None


def _changed(change: Callable[[dict[str, Any]], None]) -> Tokenizer:
    form = json.loads(TRAINED["split 0"].to_str())
    change(form)
    return Tokenizer.from_str(json.dumps(form))


def _unlike(change: Callable[[Tokenizer], None]) -> Tokenizer:
    tokenizer = Tokenizer.from_str(TRAINED["split 0"].to_str())
    change(tokenizer)
    return tokenizer


OTHER_KINDS = {
    "lower case": lambda: _unlike(lambda one: setattr(one, "normalizer", normalizers.Lowercase())),
    "prefix space": lambda: _unlike(lambda one: setattr(one, "pre_tokenizer", pre_tokenizers.ByteLevel())),
    "another pattern": lambda: _unlike(lambda one: setattr(one, "pre_tokenizer", split_by(r"\p{L}+|\s+"))),
    "no words": lambda: _unlike(lambda one: setattr(one, "pre_tokenizer", None)),
    "strips": lambda: _unlike(lambda one: one.add_special_tokens([AddedToken("<x>", lstrip=True)])),
    "normalised": lambda: _unlike(lambda one: one.add_tokens([AddedToken("<x>", normalized=True)])),
    "whole words": lambda: _unlike(lambda one: one.add_tokens([AddedToken("<x>", single_word=True, normalized=False)])),
    "special tokens as text": lambda: _unlike(lambda one: setattr(one, "encode_special_tokens", True)),
    "one name begins another": lambda: _unlike(lambda one: one.add_special_tokens(["<|im_end|>>"])),
    "byte fallback": lambda: _changed(lambda form: form["model"].update(byte_fallback=True)),
    "whole words first": lambda: _changed(lambda form: form["model"].update(ignore_merges=True)),
    "dropout": lambda: _changed(lambda form: form["model"].update(dropout=0.1)),
    "merges in another order": lambda: _changed(lambda form: form["model"]["merges"].reverse()),
    "not byte pairs": lambda: Tokenizer(models.WordLevel({"a": 0}, "a")),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_kinds_are_left_to_the_tokenizers_library(kind: str) -> None:
    assert BytePairs.of(OTHER_KINDS[kind]()) is None


def test_a_token_that_its_own_text_does_not_give_is_found() -> None:
    """In "abc" b and c come together first; tiktoken would then join a and bc, for which there is no merge."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, "bc", "ab", "abc"]
    tokenizer = Tokenizer(
        models.BPE({one: number for number, one in enumerate(tokens)}, [("b", "c"), ("a", "b"), ("ab", "c")])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert len(wanted(tokenizer, "abc")) == 2
    assert BytePairs.of(tokenizer) is None


@pytest.mark.parametrize("folder", [QWEN, *OTHERS], ids=lambda folder: folder.name)
def test_tokenizers_of_models(folder: Path) -> None:
    if not folder.exists():
        pytest.skip("needs ../shared/models/qwen2.5-tokenizer")
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    one = BytePairs.of(backend)
    assert one is not None

    @settings(max_examples=300)
    @given(text=TEXTS)
    def same(text: str) -> None:
        assert one.ids(text) == (wanted(backend, text) if _PLAIN.fullmatch(text) else None)

    same()
