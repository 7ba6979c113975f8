from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.generation.answer_stream import Outlet, Stops, policy_of
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
def test_an_outlet_filters_what_stands_before_the_stop(pieces: list[str]) -> None:
    scripts = Scripts.parse("ko")
    outlet = Outlet(["끝"], policy_of(scripts))
    text = "".join([outlet.feed(piece) for piece in pieces] + [outlet.close()])
    cleaned = clean("".join(pieces).partition("끝")[0], policy_of(scripts))
    assert (text, outlet.removed) == (cleaned.text, cleaned.removed)
    assert outlet.text == text
    assert outlet.purity == cleaned.purity


def test_without_a_policy_nothing_is_removed() -> None:
    outlet = Outlet()
    assert outlet.feed("<b>안녕</b>") + outlet.close() == "<b>안녕</b>"
    assert outlet.removed == {}


@pytest.mark.parametrize(
    ("scripts", "text", "kept"),
    [
        ("ko+loanwords+gloss", "그는 running을 했다. 심문(審問)이다.", True),
        ("ko", "그는 running을 했다.", False),
        ("ko", "심문(審問)이다.", False),
        ("ko+han", "天地를 보았다.", True),
        ("ko+emoji", "좋아요 🙂", True),
        ("ko+latin", "좋아요 🙂", False),
        ("off", "天地 running 🙂", True),
    ],
)
def test_what_the_scripts_allow_is_not_filtered(scripts: str, text: str, kept: bool) -> None:
    assert (clean(text, policy_of(Scripts.parse(scripts))).text == text) == kept
