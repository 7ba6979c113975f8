"""The page that shows a run: what it answers, whom it refuses, and what a person sees and does in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

pytest.importorskip("uvicorn")

from mlx_loopai.cli.listening import listen, served
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.verdict import Verdict
from mlx_loopai.serving.watch import build_watch
from tests.unit.serving.browser import Tab, open_tab, serious_findings

FOLDER = Path(__file__).parents[3] / "mlx_loopai" / "serving" / "watch"


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    """A run in its third step of ten, with two saves somebody has seen."""
    run = RunDirectory(tmp_path / "run<b>")
    run.path.mkdir()
    run.record("stage", name="training", total=10)
    run.record("expected", before_s=[1.0, 2.0], steps_s=[20.0, 60.0], after_s=[30.0, 90.0])
    run.record("start", total_steps=10, resumed_from=None)
    run.record("foreseen", plan_bytes=2 << 30, kept_floor=0.8, scored_s=2.0, judged=True)
    for number in range(1, 4):
        write_step(run, number)
        run.record("monitor", step=number, kept=1 - number / 100)
    for number in (1, 2):
        rows = [{"prompt": "가을?", "base": "<i>old</i>", "tuned": f"새 답 {number}"}]
        run.record("samples", step=number, answers=rows)
    run.record("notice", text="memory is short")
    return run


def write_step(run: RunDirectory, number: int) -> None:
    figures = {"loss": 3.0 / number, "learning_rate": 1e-4, "memory_bytes": 1 << 30, "peak_bytes": 3 << 29}
    line = json.dumps({"event": "step", "step": number, "time": time.time() - 40 + 4 * number} | figures)
    with run.events.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")


@pytest.fixture
def url(directory: RunDirectory) -> Iterator[str]:
    with served(build_watch(directory, "ko"), listen("127.0.0.1", 0)) as url:
        yield url


def test_the_page_asks_nothing_of_others_and_runs_nothing_but_itself(url: str) -> None:
    response = httpx.get(url)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", response.text, re.DOTALL)
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", response.text)
    assert response.headers["x-content-type-options"] == "nosniff"


def test_both_languages_say_the_same_things() -> None:
    words = (FOLDER / "words.js").read_text(encoding="utf-8")
    korean, english = (
        re.findall(r"(\w+): \"", block) for block in re.findall(r"  (?:ko|en): \{(.*?)\n  \}", words, re.DOTALL)
    )
    assert sorted(korean) == sorted(english)
    assert len(korean) > 20


def test_the_state_holds_the_steps_after_the_one_that_is_known(url: str, directory: RunDirectory) -> None:
    assert [one[0] for one in httpx.get(f"{url}/state").json()["steps"]] == [1, 2, 3]
    assert [one[0] for one in httpx.get(f"{url}/state?after=2").json()["steps"]] == [3]
    assert httpx.get(f"{url}/state?after=x").status_code == 200
    assert directory.is_watched


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}])
def test_other_sites_can_neither_read_nor_wish(url: str, directory: RunDirectory, headers: dict[str, str]) -> None:
    assert httpx.get(f"{url}/state", headers=headers).status_code == 403
    assert httpx.post(f"{url}/wish/stop", headers=headers).status_code == 403
    assert directory.take_wish() is None


def test_a_wish_reaches_the_run(url: str, directory: RunDirectory) -> None:
    assert httpx.get(f"{url}/wish/stop").status_code == 405
    assert httpx.post(f"{url}/wish/delete").status_code == 404
    assert directory.take_wish() is None
    assert httpx.post(f"{url}/wish/save").json() == {"asked": "save"}
    assert directory.take_wish() == "save"


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with open_tab() as tab:
        for domain in ("Page", "Log", "Runtime"):
            tab.call(f"{domain}.enable")
        yield tab
        logged = [event for event in tab.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
        # The page goes on asking while the server of one test is gone and that of the next is not visited yet.
        assert not [event for event in logged if "ERR_CONNECTION_REFUSED" not in json.dumps(event)]


def visit(tab: Tab, url: str) -> None:
    tab.call("Page.navigate", url=url)
    tab.wait_for("document.readyState === 'complete' && document.querySelector('#figures dd') !== null")


def text(tab: Tab, selector: str) -> Any:
    return tab.run(f"document.querySelector({selector!r})?.textContent")


def test_a_person_sees_the_run_go_on(tab: Tab, url: str, directory: RunDirectory) -> None:
    visit(tab, url)
    assert text(tab, "#run").endswith("run<b>")
    assert text(tab, "#stage").startswith("training")
    assert "3 / 10" in text(tab, "#figures")
    assert "1.5 GiB / 계획 2.0 GiB" in text(tab, "#figures")
    assert "1분~2분" in text(tab, "#figures")  # 28 s of steps, 2 s of scoring, 30 to 90 s of questions
    assert tab.run("document.querySelectorAll('#curves svg').length") == 4
    assert tab.run("document.querySelector('#curves svg').getAttribute('aria-label')") == "손실: 1.000"
    assert text(tab, "#notices") == "memory is short"
    write_step(directory, 4)
    tab.wait_for("document.querySelector('#figures').textContent.includes('4 / 10')")


def test_the_reward_of_drawn_answers_is_shown_where_there_is_one(tab: Tab, url: str, directory: RunDirectory) -> None:
    visit(tab, url)
    assert "보상" not in text(tab, "#figures")
    line = {"event": "step", "step": 4, "loss": 0.1, "learning_rate": 1e-4, "reward": 0.875, "time": time.time()}
    with directory.events.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")
    tab.wait_for("document.querySelector('#figures').textContent.includes('보상0.875')")
    assert tab.run("document.querySelectorAll('#curves svg').length") == 5


def test_every_verdict_has_words_of_its_own(tab: Tab, url: str, directory: RunDirectory) -> None:
    visit(tab, url)
    directory.record("done", steps=3)
    told = set()
    for verdict in get_args(Verdict):
        directory.record("verdict", verdict=verdict)
        tab.wait_for(f"state.verdict === {verdict!r}")
        told.add(text(tab, "#stage"))
    assert len(told) == len(get_args(Verdict))
    assert "판정: 불확실" in told


def test_answers_of_every_save_can_be_read_and_are_text(tab: Tab, url: str) -> None:
    visit(tab, url)
    assert text(tab, "#samples h3") == "가을?"
    assert "새 답 2" in text(tab, "#samples")
    assert "<i>old</i>" in text(tab, "#samples")
    tab.run(
        "document.getElementById('at').value = '1'; document.getElementById('at').dispatchEvent(new Event('change'))"
    )
    assert "새 답 1" in text(tab, "#samples")
    tab.run("document.getElementById('language').click()")
    assert text(tab, "#samples-title") == "Answers to read"


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_on_the_page_shuts_people_out(tab: Tab, url: str, dark: bool) -> None:
    tab.darken(dark)
    visit(tab, url)
    assert serious_findings(tab) == []


def test_stopping_asks_first(tab: Tab, url: str, directory: RunDirectory) -> None:
    visit(tab, url)
    tab.run("document.getElementById('stop').click()")
    assert text(tab, "#stop") == "정말 멈출까요?"
    assert directory.take_wish() is None
    tab.run("document.getElementById('stop').click()")
    tab.wait_for("document.getElementById('said').textContent.startsWith('이번 스텝이')")
    assert directory.take_wish() == "stop"


@pytest.mark.parametrize("dark", [False, True])
def test_a_telephone_shows_it_all(tab: Tab, url: str, dark: bool) -> None:
    tab.resize(390, 844)
    tab.darken(dark)
    visit(tab, url)
    assert tab.run("document.documentElement.scrollWidth") <= 390
    paper = tab.run("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(25, 24, 22)" if dark else "rgb(251, 250, 247)")
    assert tab.run(
        "[...document.querySelectorAll('button, select')].every((one) => one.textContent || one.closest('label'))"
    )
    tab.call("Emulation.clearDeviceMetricsOverride")
