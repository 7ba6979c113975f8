"""What a writer does on the writing page, for the tests of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from tests.unit.serving.browser import Tab, open_tab
from tests.unit.serving.conftest import Running


@contextlib.contextmanager
def korean_tab() -> Iterator[Tab]:
    """A tab of somebody whose browser is Korean; nothing may have gone wrong on its pages at the end."""
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
