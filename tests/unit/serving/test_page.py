"""The writing page: what it may load, and what a writer does with it in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from mlx_loopai.generation.session import Session
from tests.unit.serving.browser import Tab, open_tab
from tests.unit.serving.conftest import Running, Serving

FOLDER = Path(__file__).parents[3] / "mlx_loopai" / "serving" / "page"


def test_the_page_asks_nothing_of_others_and_runs_nothing_but_itself(server: Running) -> None:
    response = httpx.get(server.url)
    page = response.text
    policy = dict(rule.split(" ", 1) for rule in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in response.headers["content-security-policy"]
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    for part in FOLDER.glob("*.[cj]s*"):
        assert part.read_text(encoding="utf-8") in page
    assert response.headers["x-content-type-options"] == "nosniff"
    assert not re.findall(r"https?://|//[a-z]+\.", page)
    # What a model writes is text, never markup.
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", page)


def test_both_languages_say_the_same_things() -> None:
    words = (FOLDER / "words.js").read_text(encoding="utf-8")
    korean, english = (
        re.findall(r"(\w+): \"", block) for block in re.findall(r"  (?:ko|en): \{(.*?)\n  \}", words, re.DOTALL)
    )
    assert sorted(korean) == sorted(english)
    assert len(korean) > 10


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with open_tab() as tab:
        for domain in ("Page", "Network", "Log", "Runtime"):
            tab.call(f"{domain}.enable")
        tab.call("Network.setUserAgentOverride", userAgent="test", acceptLanguage="ko-KR")
        yield tab
        assert not [event for event in tab.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]


def visit(tab: Tab, server: Running) -> None:
    """The page as somebody finds it who has never been there."""
    load(tab, server)
    tab.run("localStorage.clear()")
    load(tab, server)


def load(tab: Tab, server: Running) -> None:
    tab.call("Page.navigate", url="about:blank")
    tab.call("Page.navigate", url=server.url)
    tab.wait_for("typeof at === 'function' && at('model').textContent === 'nano'")


def ask(tab: Tab, text: str) -> None:
    tab.run(f"at('prompt').value = {json.dumps(text)}; at('form').requestSubmit()")


def click(tab: Tab, name: str, within: str = "#turns") -> None:
    """The last button of that name."""
    tab.run(
        f"[...document.querySelectorAll('{within} button')].filter((b) => b.textContent === '{name}').pop().click()"
    )


def shown(tab: Tab) -> list[str]:
    return tab.run("[...document.querySelectorAll('#turns article > p:first-child')].map((p) => p.textContent)")


def test_a_conversation_in_a_browser(tab: Tab, server: Running) -> None:
    tab.events.clear()
    visit(tab, server)
    tab.run("at('temperature').value = 0; at('temperature').dispatchEvent(new Event('change'))")
    ask(tab, "한국의 수도는? <img src=x onerror=alert(1)>")
    tab.wait_for("running === null && chat.turns.length === 2")
    asked, answer = shown(tab)
    assert asked.endswith("onerror=alert(1)>")
    assert tab.run("document.images.length") == 0
    figures = tab.run("document.querySelector('.figures').textContent")
    assert figures.startswith(f"{len(answer)}자")
    assert "한글 비율" in figures
    # A screen reader hears the answer once; the text that grows is not announced.
    assert tab.run("at('status').textContent").strip() == answer
    assert tab.run("document.querySelectorAll('[aria-live]').length") == 0

    load(tab, server)
    assert shown(tab) == [asked, answer]
    [row] = tab.run("kept.chats().map(row)")
    assert row == {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
    assert answer in tab.run("markdown(chat)")

    tab.run("at('language').click()")
    assert tab.run("at('send').textContent") == "Send"
    assert tab.run("document.documentElement.lang") == "en"
    tab.run("at('language').click()")
    urls = {event["params"]["request"]["url"] for event in tab.events if event["method"] == "Network.requestWillBeSent"}
    assert all(url.startswith((server.url, "data:", "about:")) for url in urls)


def test_writing_again_editing_and_branching(tab: Tab, server: Running) -> None:
    visit(tab, server)
    ask(tab, "호랑이 이야기를 들려줘.")
    tab.wait_for("running === null && chat.turns.length === 2")
    first = shown(tab)[1]
    click(tab, "다시 쓰기")
    tab.wait_for("running === null && chat.turns[1].versions.length === 2")
    click(tab, "‹")
    assert shown(tab)[1] == first

    click(tab, "고치기")
    tab.run("document.querySelector('#turns textarea').value = '내가 고친 글이다.'")
    click(tab, "저장")
    assert shown(tab)[1] == "내가 고친 글이다."
    # Another request begins a conversation of its own; the first one stays as it was.
    tab.run("document.querySelector('.asked button').click()")
    tab.run("document.querySelector('#turns textarea').value = '시를 한 편 써 줘.'")
    click(tab, "고쳐서 묻기")
    tab.wait_for("running === null && chat.turns.length === 2")
    assert shown(tab)[0] == "시를 한 편 써 줘."
    titles = tab.run("[...document.querySelectorAll('#chats .open')].map((open) => open.textContent)")
    assert titles == ["시를 한 편 써 줘.", "호랑이 이야기를 들려줘."]
    tab.run("document.querySelectorAll('#chats .open')[1].click()")
    assert shown(tab) == ["호랑이 이야기를 들려줘.", "내가 고친 글이다."]
    for name in ("×", "정말 지우기"):
        tab.run(
            f"[...document.querySelectorAll('#chats button')].filter((b) => b.textContent === '{name}').pop().click()"
        )
    assert tab.run("kept.chats().length") == 1
    assert shown(tab) == []


def test_settings_reach_the_request(tab: Tab, server: Running) -> None:
    visit(tab, server)
    for name, value in (("genre", "동화"), ("length", "300"), ("scripts", "off"), ("temperature", "1.2")):
        tab.run(f"at('{name}').value = '{value}'; at('{name}').dispatchEvent(new Event('change'))")
    load(tab, server)
    turns = "[{ role: 'user', content: '해' }, { role: 'assistant', versions: [{ text: '' }], shown: 0 }]"
    body = json.loads(tab.run(f"bodyOf({{ chat, turns: {turns}, goesOn: false, version: {{}} }}, 0)"))
    assert (body["scripts"], body["temperature"]) == ("off", 1.2)
    assert "동화" in body["messages"][0]["content"]
    assert [message["role"] for message in body["messages"]] == ["system"] + ["user", "assistant"] * 2 + ["user"]
    assert "동화 · 300자" in tab.run("at('summary').textContent")
    # The end of a sentence, with its marks, once the text is long enough.
    assert tab.run("endNear('가나다. “라마바.” 사아', 6)") == len("가나다. “라마바.”")
    assert tab.run("endNear('가나다. 라', 6)") == -1
    # A row for training ends before an answer that was broken off.
    half = "{ role: 'assistant', versions: [{ text: '가', end: 'stopped' }], shown: 0 }"
    assert tab.run(f"row({{ ...newChat(), turns: [{{ role: 'user', content: '해' }}, {half}] }})") is None


def test_stopping_and_leaving_an_answer(tab: Tab, serving: Serving, endless: Session) -> None:
    with serving(endless) as server:
        visit(tab, server)
        ask(tab, "이야기를 들려줘.")
        tab.wait_for("document.querySelector('.writing')?.textContent.length > 3")
        tab.run("document.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape' }))")
        tab.wait_for("running === null")
        assert "멈춤" in tab.run("document.querySelector('.figures').textContent")
        server.wait_until_free()

        before = shown(tab)[1]
        click(tab, "이어 쓰기")
        tab.wait_for(f"document.querySelector('.writing')?.textContent.length > {len(before) + 3}")
        # A new conversation ends the answer, which stays in its own.
        tab.run("at('new').click()")
        tab.wait_for("running === null")
        assert shown(tab) == []
        assert tab.run("chat.turns.length") == 0
        assert tab.run("kept.chats()[0].turns[1].versions[0].text").startswith(before)
        server.wait_until_free()
        assert not any("tokens/s" in line for line in server.log)


@pytest.mark.parametrize("dark", [False, True])
def test_a_narrow_screen_cuts_nothing(tab: Tab, server: Running, dark: bool) -> None:
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    tab.call("Emulation.setEmulatedMedia", features=[scheme])
    tab.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    visit(tab, server)
    ask(tab, "가" * 200 + " " + "a" * 200)
    tab.wait_for("running === null && chat.turns.length === 2")
    tab.run("at('settings').open = true; at('list').click()")
    outside = "[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > 390.5).length"
    assert tab.run("document.documentElement.scrollWidth") <= 390
    assert tab.run(outside) == 0
    background = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(25, 24, 22)") == dark
    tab.call("Emulation.clearDeviceMetricsOverride")


def test_two_answers_side_by_side_and_what_a_writer_thinks_of_them(
    tab: Tab, serving: Serving, nano: Session, tmp_path: Path
) -> None:
    kept = tmp_path / "feedback.jsonl"
    with serving(nano, feedback=kept) as server:
        visit(tab, server)
        tab.wait_for("served.feedback")
        ask(tab, "호랑이 이야기를 들려줘.")
        tab.wait_for("running === null && chat.turns.length === 2")
        click(tab, "👎")
        tab.wait_for("at('status').textContent === '평가를 남겼습니다'")
        assert tab.run("document.querySelector('[aria-label=\"나쁜 답\"]').getAttribute('aria-pressed')") == "true"
        click(tab, "나란히 비교")
        tab.wait_for("running === null && document.querySelectorAll('.pair section').length === 2")
        tab.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
        assert tab.run("document.documentElement.scrollWidth") <= 390
        tab.call("Emulation.clearDeviceMetricsOverride")
        load(tab, server)
        first, second = tab.run("chat.turns[1].versions.map((one) => one.text)")
        click(tab, "이 글 고르기")
        assert shown(tab)[1] == second
        tab.wait_for("at('status').textContent === '평가를 남겼습니다'")
    vote, choice = (json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines())
    asked = [{"role": "user", "content": "호랑이 이야기를 들려줘."}]
    assert (vote["prompt"], vote["label"], vote["source"]) == (asked, False, "vote")
    assert (choice["chosen"][-1]["content"], choice["rejected"][-1]["content"]) == (second, first)
    assert choice["source"] == "pick"
