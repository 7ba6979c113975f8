from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import httpx

from mlx_loopai.generation.session import Session
from tests.unit.serving.browser import Tab, open_tab
from tests.unit.serving.conftest import Running, Serving

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "mlx_loopai" / "serving" / "page.html").read_text(encoding="utf-8")


def test_the_page_asks_nothing_of_others_and_runs_nothing_but_itself(server: Running) -> None:
    response = httpx.get(server.url)
    assert response.text == PAGE
    policy = dict(rule.split(" ", 1) for rule in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in response.headers["content-security-policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", PAGE, re.DOTALL)
    assert policy["script-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert not re.findall(r"https?://|//[a-z]+\.", PAGE)
    # What a model writes is text, never markup.
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", PAGE)


def test_both_languages_say_the_same_things() -> None:
    korean, english = (
        re.findall(r"(\w+): \"", block) for block in re.findall(r"  (?:ko|en): \{(.*?)\n  \}", PAGE, re.DOTALL)
    )
    assert sorted(korean) == sorted(english)
    assert len(korean) > 10


def ask(tab: Tab, text: str) -> None:
    tab.run(f"at('prompt').value = {json.dumps(text)}; at('form').requestSubmit()")


def test_the_page_in_a_browser(server: Running, serving: Serving, endless: Session) -> None:
    with open_tab() as tab:
        for domain in ("Page", "Network", "Log", "Runtime"):
            tab.call(f"{domain}.enable")
        tab.call("Page.navigate", url=server.url)
        tab.wait_for("typeof at === 'function' && at('model').textContent === 'nano'")
        ask(tab, "한국의 수도는? <img src=x onerror=alert(1)>")
        tab.wait_for("running === null && messages.length === 2")
        assert "한글 비율" in tab.run("document.querySelector('.figures').textContent")
        assert tab.run("document.querySelector('.asked').textContent").endswith("onerror=alert(1)>")
        assert tab.run("document.images.length") == 0
        tab.run("at('language').click()")
        assert tab.run("at('send').textContent") == "Send"
        tab.call("Emulation.setDeviceMetricsOverride", width=320, height=640, deviceScaleFactor=1, mobile=True)
        assert tab.run("document.documentElement.scrollWidth") <= 320
        wrong = [event for event in tab.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
        assert not wrong
        asked = {
            event["params"]["request"]["url"] for event in tab.events if event["method"] == "Network.requestWillBeSent"
        }
        assert all(url.startswith((server.url, "data:", "about:")) for url in asked)
        with serving(endless) as other:
            tab.call("Page.navigate", url=other.url)
            tab.wait_for("typeof at === 'function' && at('model').textContent === 'nano'")
            ask(tab, "이야기를 들려줘.")
            tab.wait_for("document.querySelector('.writing')?.textContent.length > 3")
            tab.run("at('stop').click()")
            tab.wait_for("running === null")
            assert tab.run("document.querySelector('.figures').textContent") == "멈춤"
            other.wait_until_free()
            assert not any("tokens/s" in line for line in other.log)
