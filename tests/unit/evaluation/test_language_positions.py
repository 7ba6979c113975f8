"""Where a model's own answers leave Korean, and the tokens that it might have written there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_loopai.config import SamplingOptions
from mlx_loopai.data.records import Message
from mlx_loopai.evaluation import language_positions as module
from mlx_loopai.evaluation.language_positions import (
    CANDIDATES,
    CONTINUED_TOKENS,
    Confusion,
    Confusions,
    find_confusions,
    score_confusions,
)
from mlx_loopai.generation.engine import Generation, generate_batch
from mlx_loopai.generation.prompts import as_prompt
from mlx_loopai.generation.session import Session, open_session
from mlx_loopai.text.hangul import nfc
from mlx_loopai.text.korean_only import first_foreign_run, holds_foreign_words

PROMPT = "바다를 묘사해 주세요."


@pytest.fixture
def session(tiny_model_folder: Path) -> Session:
    return open_session(str(tiny_model_folder))


@pytest.fixture
def found(session: Session, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Confusions]:
    """Where the answers to prompts leave Korean, if the model says so."""

    def build(*answers: str, prompts: Sequence[str] = (PROMPT,), each: int = 1) -> Confusions:
        def written(loaded: Any, asked: Sequence[Any], options: Any, on_progress: Any) -> list[Generation]:
            assert len(asked) == len(answers)
            tokens = [tuple(loaded.tokenizer.encode(text, add_special_tokens=False)) for text in answers]
            return [Generation(text, own, True, 1) for text, own in zip(answers, tokens, strict=True)]

        monkeypatch.setattr(module, "generate_batch", written)
        asked = [as_prompt(prompt) for prompt in prompts]
        return find_confusions(session, asked, each, SamplingOptions(max_tokens=8))

    return build


@pytest.mark.parametrize(
    ("answer", "before"),
    [
        ("바다는 very 고요했다.", "바다는"),
        ("바다는very 고요했다.", "바다는"),
        ("바다는 고요한 靜寂이다.", "바다는 고요한"),
        ("The sea was calm.", ""),
        ("今天", ""),
    ],
)
def test_an_answer_is_cut_before_its_first_foreign_word(
    session: Session, found: Callable[..., Confusions], answer: str, before: str
) -> None:
    (confusion,) = found(answer).found
    text = session.loaded.tokenizer.decode(list(confusion.prefix)) if confusion.prefix else ""
    assert text.rstrip(" ") == before
    tokens = session.loaded.tokenizer.encode(answer, add_special_tokens=False)
    assert confusion.prefix == tuple(tokens[: len(confusion.prefix)])
    assert list(confusion.asked) == session.prompt_ids(as_prompt(PROMPT))


def test_answers_without_such_a_place_are_counted(found: Callable[..., Confusions]) -> None:
    places = found("고요했다.", "바다는 very", "바다는 very much", each=3)
    assert len(places.found) == 1
    assert places.dropped == {
        "the answer has no foreign words that the request does not hold": 1,
        "another answer leaves Korean at the same place": 1,
    }


def test_requests_for_other_languages_are_left_out_and_words_of_the_request_are_allowed(
    found: Callable[..., Confusions],
) -> None:
    places = found("sea는 고요했다.", prompts=["sea를 묘사해 주세요.", "영어로 써 주세요."])
    assert places.found == ()
    assert places.dropped == {
        "the request names another language, or code": 1,
        "the answer has no foreign words that the request does not hold": 1,
    }


@pytest.mark.parametrize(
    ("text", "run"),
    [
        ("\u1112\u1161\u11ab\u1100\u1173\u11af very", "very"),  # 한글 in six letters
        ("한글", None),
        ("AI는 K-pop, iPhone", None),
        ("Sure! Here is the answer.", "Sure! Here is the answer."),
        ("1. The sea", "The sea"),
        ("1. 바다(The sea)", "The sea)"),
        ("서울의 K-pop을 love", "love"),
        ("서울의 AI\nthe sea", "the sea"),
        ("나는 今天 왔다", "今天 왔다"),
    ],
)  # fmt: skip
def test_a_foreign_run_begins_after_the_last_hangul_of_its_line(text: str, run: str | None) -> None:
    start = first_foreign_run(text)
    assert (None if start is None else nfc(text)[start:]) == run
    assert holds_foreign_words(text) == (run is not None)


def test_candidates_are_the_likeliest_tokens_and_go_on_greedily(session: Session) -> None:
    loaded = session.loaded
    asked = session.prompt_ids(as_prompt(PROMPT))
    prefix = tuple(loaded.tokenizer.encode("바다는", add_special_tokens=False))
    made = score_confusions(session, [Confusion(as_prompt(PROMPT), asked, prefix, frozenset())])
    if made.dropped:
        pytest.skip("all candidates of the tiny model score alike")
    (position,) = made.positions
    read = [*asked, *prefix]
    logits = np.array(loaded.model(mx.array([read]))[0, -1].astype(mx.float32))[: loaded.n_tokens]
    likely = logits - np.logaddexp.reduce(logits)
    control = {*loaded.tokenizer.all_special_ids, *loaded.tokenizer.eos_token_ids}
    order = [token for token in np.argsort(-likely).tolist() if token not in control][:CANDIDATES]
    assert [one.token for one in position.begun.candidates] == order
    np.testing.assert_allclose([one.logprob for one in position.begun.candidates], likely[order], atol=1e-3)
    greedy = SamplingOptions(temperature=0.0, max_tokens=CONTINUED_TOKENS)
    for one, then in zip(
        position.begun.candidates, generate_batch(loaded, [[*read, token] for token in order], greedy), strict=True
    ):
        whole = loaded.tokenizer.decode([*prefix, one.token, *then.tokens]).rstrip("\ufffd")
        assert position.begun.prefix + one.text == whole
        assert one.score == float("\ufffd" not in whole and not holds_foreign_words(whole))
        assert one.piece == loaded.tokenizer.convert_ids_to_tokens(one.token)
    assert position.prompt == (Message("user", PROMPT),)
