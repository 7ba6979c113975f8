"""The draft beside the chat: it grows by what a writer accepts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlx_loopai.generation.session import Session
from tests.unit.serving.browser import Tab
from tests.unit.serving.conftest import Running, Serving
from tests.unit.serving.writing_page import ask, click, korean_tab, load, visit


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with korean_tab() as tab:
        yield tab


def draft(tab: Tab) -> list[list[str]]:
    """Each paragraph of the draft: its text, and what is proposed."""
    return tab.run("draftOf(chat).map((part) => [part.text, part.proposal])")


def test_a_draft_grows_by_what_the_writer_accepts(tab: Tab, server: Running) -> None:
    visit(tab, server)
    tab.run("at('drafting').click()")
    assert tab.run("at('grow').disabled && !at('bare').hidden")
    ask(tab, "호랑이 이야기를 들려줘.")
    tab.wait_for("running === null && chat.turns.length === 2")
    tab.run(
        "Object.assign(shownOf(chat.turns[1]), { text: '첫째 문단이다.\\n\\n둘째 문단이다.\\n셋째 문단이다.' }); draw()"
    )
    click(tab, "원고에 넣기")
    assert draft(tab) == [["", "첫째 문단이다."], ["", "둘째 문단이다."], ["", "셋째 문단이다."]]
    assert tab.run("at('grow').disabled")  # the writer decides first
    tab.run("document.querySelectorAll('#paragraphs .accept')[0].focus(); document.activeElement.click()")
    # Whoever goes by the keyboard is at the next proposal.
    assert tab.run("document.activeElement === document.querySelector('#paragraphs .accept')")
    press = "document.dispatchEvent(new KeyboardEvent('keydown', {{ code: '{}', altKey: true }}))"
    tab.run(press.format("KeyX"))
    assert draft(tab) == [["첫째 문단이다.", ""], ["", "셋째 문단이다."]]
    tab.run(press.format("KeyA"))
    assert tab.run("draftText(chat)") == "첫째 문단이다.\n\n셋째 문단이다."

    tab.run("at('grow').click()")
    tab.wait_for("running === null && proposed(chat).length > 0")
    (_, _, *grown) = draft(tab)
    assert all(not text and proposal for text, proposal in grown)
    sent = tab.run("draftMessages(chat, ['첫째 문단이다.', '셋째 문단이다.'], 1)")
    assert [message["role"] for message in sent] == ["user", "assistant"]
    assert sent[0]["content"] == "호랑이 이야기를 들려줘."
    assert sent[1]["content"] == "셋째 문단이다.\n\n"
    tab.run("settle(proposed(chat), false)")
    assert len(draft(tab)) == 2

    # Another text for a paragraph is one paragraph, beside what stands there until it is accepted.
    click(tab, "다시 쓰기", "#paragraphs")
    tab.wait_for("running === null && proposed(chat).length === 1")
    (text, proposal) = draft(tab)[1]
    assert text == "셋째 문단이다."
    assert "\n" not in proposal
    assert tab.run("document.querySelector('#paragraphs del').textContent") == text
    load(tab, server)
    assert tab.run("document.querySelector('#paragraphs ins').textContent") == proposal
    click(tab, "받기", "#paragraphs")
    assert draft(tab)[1] == [proposal, ""]

    tab.run("at('own').click(); document.querySelector('#paragraphs textarea').value = '내가 쓴 문단.'")
    click(tab, "저장", "#paragraphs")
    click(tab, "지우기", "#paragraphs")
    click(tab, "고치기", "#paragraphs")
    tab.run("document.querySelector('#paragraphs textarea').value = '고친 문단.'")
    click(tab, "저장", "#paragraphs")
    assert tab.run("draftText(chat)") == "첫째 문단이다.\n\n고친 문단."
    tab.run("drafting(false)")


def test_esc_stops_what_grows_in_the_draft(tab: Tab, serving: Serving, endless: Session) -> None:
    with serving(endless) as server:
        visit(tab, server)
        tab.run(
            "drafting(true); draftOf(chat).push({ text: '옛날에 호랑이가 살았다.', proposal: '' }); changed(); at('grow').click()"
        )
        tab.wait_for("document.querySelector('#paragraphs .writing')?.textContent.length > 3")
        tab.run("document.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape' }))")
        tab.wait_for("running === null")
        assert tab.run("proposed(chat).length") >= 1
        server.wait_until_free()
        tab.run("drafting(false)")
