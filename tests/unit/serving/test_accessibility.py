"""The pages by axe-core: nothing on them shuts people out, in light and dark, wide and narrow."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.serving.browser import Tab, serious_findings
from tests.unit.serving.conftest import Running
from tests.unit.serving.writing_page import ask, korean_tab, visit

SIZES = {"wide": (1280, 800), "narrow": (390, 844)}


@pytest.fixture(scope="module", params=[(size, dark) for size in SIZES for dark in (False, True)], ids=str)
def tab(request: pytest.FixtureRequest) -> Iterator[Tab]:
    size, dark = request.param
    with korean_tab() as tab:
        tab.resize(*SIZES[size])
        tab.darken(dark)
        yield tab


def test_the_writing_page(tab: Tab, server: Running) -> None:
    visit(tab, server)
    assert serious_findings(tab) == []
    ask(tab, "호랑이 이야기를 들려줘.")
    tab.wait_for("running === null && chat.turns.length === 2")
    tab.run("at('settings').open = true; listing(true)")
    assert serious_findings(tab) == []
    tab.run("listing(false); again(chat.turns[1])")
    tab.wait_for("running === null && chat.turns[1].versions.length === 2")
    tab.run("beside(chat.turns[1])")
    tab.wait_for("running === null && document.querySelectorAll('.pair section').length === 2")
    assert serious_findings(tab) == []
    tab.run("intoDraft('첫 문단이다.\\n둘째 문단이다.'); settle(proposed(chat).slice(0, 1), true)")
    tab.run("chat.draft[0].proposal = '다른 첫 문단이다.'; at('notice').hidden = false; tell('norows'); changed()")
    assert serious_findings(tab) == []
    tab.run("edit(document.querySelector('#paragraphs li'), '가', 'save', () => {})")
    assert serious_findings(tab) == []
