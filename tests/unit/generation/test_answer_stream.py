from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.config import SamplingOptions
from mlx_loopai.generation.answer_stream import Stops, Writing, policy_of
from mlx_loopai.generation.engine import Piece
from mlx_loopai.generation.request import Request
from mlx_loopai.text.alphabet import Scripts
from mlx_loopai.text.filter import clean


def shown(stops: Stops, pieces: list[str]) -> str:
    return "".join([stops.feed(piece) for piece in pieces] + [stops.close()])


def until_stop(text: str, stops: list[str]) -> str:
    """Character by character: the first that is complete ends it; of those that end together the longest."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))]
    return text


@given(st.lists(st.text("ab가", max_size=4), max_size=8), st.lists(st.text("ab가", min_size=1, max_size=3), max_size=3))
def test_stops_wherever_the_pieces_were_cut(pieces: list[str], stops: list[str]) -> None:
    scanner = Stops(stops)
    text = "".join(pieces)
    assert shown(scanner, pieces) == until_stop(text, stops)
    assert scanner.reached == any(stop in text for stop in stops)


def test_what_cannot_be_a_stop_is_not_held_back() -> None:
    stops = Stops(["끝났다"])
    assert stops.feed("이야기가 끝") == "이야기가 "
    assert stops.feed("나지 않았다") == "끝나지 않았다"


@given(st.lists(st.sampled_from(["안녕 ", "<b>", "</b>", "하늘", "http://a.kr ", "끝", "🙂"]), max_size=12))
def test_a_text_is_filtered_up_to_the_stop(pieces: list[str]) -> None:
    policy = policy_of(Scripts.parse("ko"))
    writing = Writing(Request([5], SamplingOptions(seed=3), stops=("끝",), policy=policy))
    shown = "".join([writing.take(Piece(piece, 7, False)) for piece in pieces] + [writing.end()])
    before, stop, _ = "".join(pieces).partition("끝")
    cleaned = clean(before, policy)
    text = writing.text()
    assert (shown, text.text, text.written) == (cleaned.text, cleaned.text, before)
    assert (text.removed, text.purity) == (cleaned.removed, cleaned.purity)
    assert (text.finished, text.generated_tokens, text.prompt_tokens) == (bool(stop), len(pieces), 1)
    assert (text.seed, text.scripts, text.masked_mass) == (3, "off", 0.0)


def test_without_a_policy_nothing_is_removed() -> None:
    writing = Writing(Request([5], SamplingOptions()))
    assert writing.take(Piece("<b>안녕</b>", 7, False)) + writing.end() == "<b>안녕</b>"
    assert writing.text().removed == {}
    assert not writing.text().finished  # nothing but the last piece of a model ends a text


def test_the_models_own_end_is_no_token() -> None:
    writing = Writing(Request([5], SamplingOptions()))
    assert writing.take(Piece("끝.", 7, False)) + writing.take(Piece("", None, True)) + writing.end() == "끝."
    assert (writing.text().finished, writing.tokens) == (True, [7])


@pytest.mark.parametrize(
    ("scripts", "text", "kept"),
    [
        ("ko+loanwords+gloss", "그는 running을 했다. 심문(審問)이다.", True),
        ("ko", "그는 running 빨리 갔다.", False),
        ("ko", "심문(審問)이다.", False),
        ("ko+han", "天地를 보았다.", True),
        ("ko+emoji", "좋아요 🙂", True),
        ("ko+latin", "좋아요 🙂", False),
        ("off", "天地 running 🙂", True),
    ],
)
def test_what_the_scripts_allow_is_not_filtered(scripts: str, text: str, kept: bool) -> None:
    assert (clean(text, policy_of(Scripts.parse(scripts))).text == text) == kept
