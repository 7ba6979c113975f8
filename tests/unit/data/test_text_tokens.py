from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from mlx_loopai.data.special import SpecialNames
from mlx_loopai.data.text_tokens import text_ids
from mlx_loopai.models.load import load_tokenizer, resolve_model

NANO = load_tokenizer(resolve_model("nano"))
SPECIAL = SpecialNames.of(NANO, "")


class Spelling(PreTrainedTokenizerFast):
    """A tokenizer that does more than call its backend."""

    def _encode_plus(self, text: Any, *given: Any, **options: Any) -> Any:
        spelt = [" ".join(one) for one in text] if isinstance(text, list) else " ".join(text)
        return super()._encode_plus(spelt, *given, **options)


def _one_by_one(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False) for text in texts]


@given(st.lists(st.text(), min_size=2, max_size=8))
def test_many_texts_have_the_tokens_that_each_has(texts: list[str]) -> None:
    hidden = [SPECIAL.hide(text) for text in texts]
    assert text_ids(NANO, SPECIAL, hidden) == [text_ids(NANO, SPECIAL, [text])[0] for text in hidden]


def test_settings_of_the_file_do_not_reach_the_tokens() -> None:
    tokenizer = load_tokenizer(resolve_model("nano"))
    texts = ["옛날 옛적에 토끼가 살았다.", "숲에는 <|im_end|> 아무도 없었다.", "끝."]
    want = _one_by_one(NANO, texts)
    backend = tokenizer._tokenizer.backend_tokenizer
    backend.enable_truncation(2)
    backend.enable_padding(length=30)
    backend.encode_special_tokens = True
    assert text_ids(tokenizer, SpecialNames([]), texts) == want


def test_a_tokenizer_with_a_way_of_its_own_keeps_it() -> None:
    tokenizer = Spelling(tokenizer_object=NANO._tokenizer.backend_tokenizer)
    texts = ["토끼", "거북이", "숲"]
    assert text_ids(tokenizer, SpecialNames([]), texts) == _one_by_one(NANO, [" ".join(text) for text in texts])
