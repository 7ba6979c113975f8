from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.report.kit.elements import Html, element, is_hidden, join, visible
from tests.unit.report.pages import Page

HOSTILE = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a\u202eb\u2066c",
    "&lt;",
    "\x00\ud800",
]


def test_strings_are_escaped_and_elements_are_not() -> None:
    inner = element("b", "<i>")
    assert element("p", inner, "&", None, [inner, "'"]).markup == "<p><b>&lt;i&gt;</b>&amp;<b>&lt;i&gt;</b>&#x27;</p>"


def test_attributes() -> None:
    made = element("line", class_="a b", stroke_width=2, viewBox="0 0", title='"<', hidden=True, lang=None, open=False)
    assert made.markup == '<line class="a b" stroke-width="2" viewBox="0 0" title="&quot;&lt;" hidden></line>'
    assert element("meta", charset="utf-8").markup == '<meta charset="utf-8">'


def test_join_escapes_what_is_between() -> None:
    assert join(["a", None, Html("<br>")], " < ").markup == "a &lt; <br>"


def test_hidden_characters_are_shown_and_harmless() -> None:
    assert visible("가\u202e나\x07\ud800\r\n\t") == "가⟦U+202E⟧나⟦U+0007⟧⟦U+D800⟧\n\t"
    family = "👨\u200d👩\u200d👧"  # the joiners that make one emoji of three must stay
    assert visible(family) == family


@given(st.text() | st.sampled_from(HOSTILE))
def test_any_text_comes_back_as_text(text: str) -> None:
    page = Page()
    page.feed(element("p", text, title=text).markup)
    page.close()
    assert [tag for tag, _ in page.elements] == ["p"]
    assert page.text == page.elements[0][1]["title"] == visible(text)
    assert not any(is_hidden(char) for char in page.text)
    page.text.encode("utf-8")
