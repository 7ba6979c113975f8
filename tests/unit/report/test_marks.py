from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.report.kit.elements import visible
from mlx_loopai.report.kit.marks import KINDS, is_korean, language, marked
from mlx_loopai.report.kit.style import STYLE
from mlx_loopai.text.hangul import nfc
from tests.unit.report.pages import Page


@pytest.mark.parametrize(
    ("answer", "kinds"),
    [
        ("그는 走了过去 문을 열었다", {"han": 1}),
        ("Привет 하고 ありがとう", {"cyrillic": 1, "kana": 1}),
        ("사랑해 שלום", {"script": 1}),
        ("그는 suddenly 달렸다", {"latin": 1}),
        ("AI와 K-pop, 3 km", {}),
        ("학교(學校)에 갔다", {}),
        ("<b>빛</b> 3 < 5", {"markup": 2}),
        ("```python\n코드```", {"markup": 2}),
        ("좋아요 😀", {"emoji": 1}),
        ("오른쪽\u202e왼쪽\x00", {"hidden": 2}),
        ("東京タワー에", {"han": 1, "kana": 1}),
    ],
)
def test_kinds_in_a_korean_answer(answer: str, kinds: dict[str, int]) -> None:
    assert marked(answer, korean=True).kinds == kinds


def test_english_and_code_are_not_foreign_where_they_were_asked_for() -> None:
    assert marked("The word is apple.", korean=False).kinds == {}
    assert marked("```python\ndef f(a): return a\n```", korean=False).kinds == {}
    assert marked("the word 苹果", korean=False).kinds == {"han": 1}


@pytest.mark.parametrize(
    ("answer", "faults"),
    [('{"text": ["비가', ("JSON",)), (" \n", ("empty",)), ("배가 고팠다. " * 12, ("loop",)), ("네, 그래요.", ())],
)
def test_faults_of_form(answer: str, faults: tuple[str, ...]) -> None:
    assert marked(answer, korean=True).faults == faults


def test_json_is_no_fault_where_it_was_taught_or_asked_for() -> None:
    assert marked('{"text": ["비가', korean=True, json=True).faults == ()
    assert marked('{"text": ["' + "비가 왔다. " * 12, korean=True, json=True).faults == ("loop",)


@given(st.text(alphabet=st.sampled_from('가나 다aZé漢かЖ<>/b`{"&\u202e\x00😀.\n') | st.characters()), st.booleans())
def test_marking_loses_no_text(answer: str, korean: bool) -> None:
    page = Page()
    shown = marked(answer, korean)
    page.feed(f"<p>{shown.html.markup}</p>")
    page.close()
    assert page.problems == []
    assert {tag for tag, _ in page.elements} <= {"p", "mark"}
    expected = visible(nfc(answer.replace("\r\n", "\n").replace("\r", "\n"))).replace("⟦U+", "U+").replace("⟧", "")
    assert page.text.replace("⟦U+", "U+").replace("⟧", "") == expected
    assert set(shown.kinds) <= set(KINDS)


def test_every_kind_has_its_colour() -> None:
    assert all(f".k-{kind}{{" in STYLE for kind in KINDS)


def test_language() -> None:
    assert (is_korean("판타지 소설을 써주세요"), is_korean("What is 사과?")) == (True, False)
    assert (language("山은 산"), language("apple")) == ("ko", None)
