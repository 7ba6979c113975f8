"""The writing page: what it may load, and what a writer does with it in a browser."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from mlx_loopai.config import GenerationOptions
from mlx_loopai.data.images import picture_size
from mlx_loopai.data.records import read_records
from mlx_loopai.generation.lineup import Lineup
from mlx_loopai.generation.session import Session, open_session
from mlx_loopai.serving.request_body import Defaults
from tests.tiny_vision_folder import write_vision_folder
from tests.unit.serving.browser import Tab, open_tab
from tests.unit.serving.conftest import Running, Serving
from tests.unit.serving.writing_page import ask, click, korean_tab, load, shown, visit

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
    with korean_tab() as tab:
        yield tab


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
    body = json.loads(tab.run(f"bodyOf(chat, messagesOf(chat, {turns}, false, 0), false, {{}})"))
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
    tab.darken(dark)
    tab.resize(390, 844)
    visit(tab, server)
    ask(tab, "가" * 200 + " " + "a" * 200)
    tab.wait_for("running === null && chat.turns.length === 2")
    tab.run("intoDraft('가'.repeat(200)); at('settings').open = true; at('list').click()")
    outside = "[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > 390.5).length"
    assert tab.run("document.documentElement.scrollWidth") <= 390
    assert tab.run(outside) == 0
    background = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(25, 24, 22)") == dark
    tab.run("drafting(false)")
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
        tab.resize(390, 844)
        assert tab.run("document.documentElement.scrollWidth") <= 390
        tab.call("Emulation.clearDeviceMetricsOverride")
        load(tab, server)
        first, second = tab.run("chat.turns[1].versions.map((one) => one.text)")
        click(tab, "이 글 고르기")
        assert shown(tab)[1] == second
        tab.wait_for("at('status').textContent === '평가를 남겼습니다'")
        # No run learns from judged answers to pictures: the page says so, and shows no judgement that is not kept.
        tab.run("chat.turns[0].images = ['data:image/png;base64,AA==']; draw()")
        click(tab, "👍")
        assert tab.run("at('notice').textContent === word('unseen') && !at('notice').hidden")
        assert tab.run("shownOf(chat.turns[1]).vote ?? null") is None
    vote, choice = (json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines())
    asked = [{"role": "user", "content": "호랑이 이야기를 들려줘."}]
    assert (vote["prompt"], vote["label"], vote["source"]) == (asked, False, "vote")
    assert (choice["chosen"][-1]["content"], choice["rejected"][-1]["content"]) == (second, first)
    assert choice["source"] == "pick"


def test_the_answer_says_who_wrote_it(tab: Tab, serving: Serving, nano: Session, tmp_path: Path) -> None:
    """Base, adapter, or whichever suits the request: chosen for each answer, and compared side by side."""
    worn = dataclasses.replace(nano, adapter=tmp_path)
    lineup = Lineup({"nano:first": worn, "nano": nano}, {}, switches={"nano:first": ToTheBase()})  # type: ignore[dict-item]
    defaults = Defaults(lineup.names, GenerationOptions(max_tokens=40), switched=("nano:first",))
    with serving(lineup=lineup, defaults=defaults) as server:
        tab.call("Page.navigate", url=server.url)
        tab.wait_for("typeof at === 'function' && served.writers.length === 3")
        tab.run("localStorage.clear()")
        tab.call("Page.reload")
        tab.wait_for("typeof at === 'function' && served.writers.length === 3")
        assert tab.run("[...at('answering').options].map((one) => one.text)") == [
            "어댑터: first",
            "자동: first",
            "원래 모델: nano",
        ]
        told = []
        for chosen in ("nano:first", "nano:first auto", "nano"):
            tab.run(f"at('answering').value = '{chosen}'; at('answering').dispatchEvent(new Event('change'))")
            if told:
                click(tab, "다시 쓰기")
            else:
                ask(tab, "호랑이 이야기를 들려줘.")
            tab.wait_for("running === null && shownOf(chat.turns[1])?.end")
            told.append(tab.run("document.querySelector('.figures').textContent.split(' · ')[0]"))
        assert told == ["어댑터: first", "자동: first → 원래 모델", "원래 모델: nano"]
        # Who is chosen for the next answer stands beside the one that is there.
        tab.run("at('answering').value = 'nano:first'; at('answering').dispatchEvent(new Event('change'))")
        click(tab, "나란히 비교")
        tab.wait_for("running === null && document.querySelectorAll('.pair section').length === 2")
        sides = tab.run("[...document.querySelectorAll('.pair section')].map((one) => one.getAttribute('aria-label'))")
        assert sides == ["원래 모델: nano", "어댑터: first"]


class ToTheBase:
    """A switch that leaves every prompt to the base."""

    def chooses_adapter(self, model: object, prompt_ids: object, read: object = None) -> bool:
        return False


SENDS = """(async () => {
  const send = (type) => fetch('%s/v1/feedback', { method: 'POST', headers: { 'Content-Type': type }, body: %s })
    .then((answer) => answer.status, () => 'refused');
  return [await send('application/json'), await send('text/plain')];
})()"""


def test_a_page_of_another_origin_writes_no_judgement(serving: Serving, nano: Session, tmp_path: Path) -> None:
    """A second tab, on the page of another server, with the body that the first one's page would send."""
    kept = tmp_path / "feedback.jsonl"
    body = json.dumps(json.dumps({"prompt": "안녕?", "completion": "네.", "label": True}))
    with serving(nano, feedback=kept) as server, serving(nano) as foreign, open_tab() as tab:
        # A blank page of its own origin, without a policy that would stop it before the server does.
        tab.call("Page.navigate", url=f"{foreign.url}/no-such-page")
        tab.wait_for("document.readyState === 'complete' && location.pathname === '/no-such-page'")
        assert tab.run("location.origin") == foreign.url.rstrip("/") != server.url.rstrip("/")
        assert tab.run(SENDS % (server.url.rstrip("/"), body)) == ["refused", "refused"]
        assert not kept.exists() or not kept.read_text(encoding="utf-8")
        tab.call("Page.navigate", url=server.url)
        tab.wait_for(f"location.origin === {json.dumps(server.url.rstrip('/'))} && document.readyState === 'complete'")
        assert tab.run(SENDS % (server.url.rstrip("/"), body))[0] == 200
    assert len(kept.read_text(encoding="utf-8").splitlines()) == 1


DROP = """(async () => {
  const canvas = Object.assign(document.createElement('canvas'), { width: %d, height: 20 });
  canvas.getContext('2d').fillRect(0, 0, 9, 9);
  const blob = await new Promise((done) => canvas.toBlob(done, 'image/%s'));
  const carried = new DataTransfer();
  carried.items.add(new File([blob], 'cat', { type: blob.type }));
  document.dispatchEvent(new DragEvent('drop', { dataTransfer: carried, cancelable: true }));
})()"""


def test_a_dropped_picture_is_shown_sent_and_kept(
    tab: Tab, serving: Serving, tmp_path: Path, tiny_model_folder: Path
) -> None:
    folder = write_vision_folder(tmp_path / "model", "qwen2_vl", tiny_model_folder)
    with serving(open_session(str(folder), dtype="fp32")) as server:
        visit(tab, server)
        tab.wait_for("!at('add').hidden")
        for wide, kind in ((30, "png"), (3000, "webp")):
            tab.run(DROP % (wide, kind))
        tab.wait_for("document.querySelectorAll('#waiting img').length === 2")
        click(tab, "×", "#waiting")
        assert tab.run("waiting.length") == 1
        ask(tab, "무엇인가요?")
        tab.wait_for("running === null && chat.turns.length === 2")
        assert tab.run("at('waiting').hidden")
        # What a model of random weights says may be nothing, and an exchange without an answer is not sent.
        tab.run("shownOf(chat.turns[1]).text = '고양이'; save(chat)")
        [image] = tab.run("chat.turns[0].images")
        assert image.startswith("data:image/png;base64,")
        # It stays in the conversation, is shown in it, and is sent with every later request.
        load(tab, server)
        assert tab.run("[...document.querySelectorAll('.asked img')].map((one) => one.src)") == [image]
        tab.wait_for("document.querySelector('.asked img').naturalWidth === 30")
        ask(tab, "더 말해 줘.")
        tab.wait_for("running === null && chat.turns.length === 4")
        assert not tab.run("chat.turns[3].versions[0].error")
        sent = tab.run("messagesOf(chat, chat.turns, false, 0)")
        assert [type(message["content"]) for message in sent] == [list, str, str]
        assert sent[0]["content"][0] == {"type": "image_url", "image_url": {"url": image}}
        # Asked otherwise, the request keeps its picture.
        tab.run("document.querySelector('.asked button').click()")
        tab.run("document.querySelector('#turns textarea').value = '무슨 색인가요?'")
        click(tab, "고쳐서 묻기")
        tab.wait_for("running === null && chat.turns.length === 2")
        assert tab.run("chat.turns[0].images") == [image]
        assert image in tab.run("markdown(chat)")
        # A row for training holds the picture itself.
        tab.run("Object.assign(shownOf(chat.turns[1]), { text: '파란색', end: 'stop' })")
        file = tmp_path / "conversations.jsonl"
        file.write_text(json.dumps(tab.run("row(chat)")) + "\n", encoding="utf-8")
        [record] = read_records(file)
        assert [message.shown for message in record.messages] == ["[a picture within the row] 무슨 색인가요?", "파란색"]
        assert picture_size(record.messages[0].pictures[0]) == (20, 30)
        tab.run("addPictures([new File([new Uint8Array(9)], 'x.png', { type: 'image/png' })])")
        tab.wait_for("at('notice').textContent === word('nopicture') && !at('notice').hidden")


def test_a_large_picture_is_made_smaller(tab: Tab, server: Running) -> None:
    visit(tab, server)
    noise = """(async () => {
      const canvas = Object.assign(document.createElement('canvas'), { width: 1600, height: 400 });
      const context = canvas.getContext('2d'), pixels = context.createImageData(1600, 400);
      for (let place = 0; place < pixels.data.length; place++) pixels.data[place] = (place * 2654435761 >>> 13) % 251;
      context.putImageData(pixels, 0, 0);
      const blob = await new Promise((done) => canvas.toBlob(done, 'image/png'));
      const url = await pictureOf(new File([blob], 'noise.png', { type: 'image/png' }));
      return [blob.size, url.slice(0, 22), url.length];
    })()"""
    before, kind, after = tab.run(noise)
    assert before > 256 * 1024
    assert kind == "data:image/jpeg;base64"
    assert after < before
    # A model of text alone takes none, and says so.
    tab.run(DROP % (30, "png"))
    tab.wait_for("!at('notice').hidden")
    assert "글만 읽습니다" in tab.run("at('notice').textContent")
    assert tab.run("at('add').hidden && waiting.length === 0")
