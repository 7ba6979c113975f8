"""The draft beside the chat: it grows by what a writer accepts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_loopai.data.pairs import Pair
from mlx_loopai.data.records import read_all
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


def test_a_paragraph_in_place_of_another_is_a_pair_that_train_reads(
    tab: Tab, serving: Serving, nano: Session, tmp_path: Path
) -> None:
    kept = tmp_path / "feedback.jsonl"

    def pairs(count: int) -> list[tuple[str, str, str]]:
        """(source, chosen, rejected) of every row, once there are so many."""
        tab.wait_for(f"at('status').textContent === word('judged') || {count} === 0")
        deadline = time.monotonic() + 10
        while len(lines := kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []) < count:
            assert time.monotonic() < deadline, lines
            time.sleep(0.05)
        rows = [json.loads(line) for line in lines]
        return [(row["source"], row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows]

    with serving(nano, feedback=kept) as server:
        visit(tab, server)
        tab.wait_for("served.feedback")
        tab.run("propose(chat, '버릴 문단.\\n좋은 문단.'); settle(proposed(chat).slice(0, 1), false)")
        assert pairs(0) == []  # the writer has not decided what stands there instead
        tab.run("settle(proposed(chat), true)")
        assert pairs(1) == [("draft", "좋은 문단.", "버릴 문단.")]

        tab.run("at('status').textContent = ''; propose(chat, '셋째.'); settle(proposed(chat), true)")
        tab.run("chat.draft[1].proposal = '다른 셋째.'; settle(proposed(chat), true)")
        assert pairs(2)[-1] == ("draft", "좋은 문단.\n\n다른 셋째.", "좋은 문단.\n\n셋째.")
        tab.run("at('status').textContent = ''; draw()")
        click(tab, "고치기", "#paragraphs")
        tab.run("document.querySelector('#paragraphs textarea').value = '고친 셋째.'")
        click(tab, "저장", "#paragraphs")
        assert pairs(3)[-1] == ("edit", "좋은 문단.\n\n고친 셋째.", "좋은 문단.\n\n다른 셋째.")
        tab.run("drafting(false)")
    read = read_all(kept)
    assert [len(pair.prompt) for pair in read.judged if isinstance(pair, Pair)] == [1, 1, 1]
    assert not read.bad
    assert not read.unused


def test_a_row_shows_the_end_of_a_long_draft(tab: Tab, server: Running) -> None:
    visit(tab, server)
    shown = tab.run(
        "lastParagraphs(['가'.repeat(600), '나'.repeat(600), '다'.repeat(100)].join(GAP)).map((one) => one[0])"
    )
    assert shown == ["나", "다"]


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
