"""The files that a writer saves from the page: what the browser puts on the disk, and that training reads it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_loopai.data.records import read_all
from tests.unit.serving.browser import Tab
from tests.unit.serving.conftest import Running
from tests.unit.serving.writing_page import ask, korean_tab, shown, visit


@pytest.fixture
def tab() -> Iterator[Tab]:
    with korean_tab() as tab:
        yield tab


def saved(folder: Path, button: str, tab: Tab) -> Path:
    """The file that a press of `button` leaves in `folder`, once it is whole."""
    before = set(folder.iterdir())
    tab.run(f"at('{button}').click()")
    deadline = time.monotonic() + 20
    while not (new := [one for one in folder.iterdir() if one not in before and one.suffix != ".crdownload"]):
        assert time.monotonic() < deadline, f"{button}: nothing was saved"
        time.sleep(0.05)
    return new[0]


def test_every_button_saves_a_file(tab: Tab, server: Running, tmp_path: Path) -> None:
    tab.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    visit(tab, server)
    ask(tab, "호랑이 이야기를 들려줘.")
    tab.wait_for("running === null && chat.turns.length === 2")
    tab.run("Object.assign(shownOf(chat.turns[1]), { end: 'stop' }); save(chat)")
    asked, answer = shown(tab)

    conversation = saved(tmp_path, "markdown", tab)
    assert conversation.name == f"{asked}.md"
    text = conversation.read_text(encoding="utf-8")
    assert text.startswith(f"# {asked}\n\n## 나\n\n{asked}\n")
    assert answer.strip() in text

    rows = saved(tmp_path, "rows", tab)
    read = read_all(rows)
    assert [[message.content for message in record.messages] for record in read.records] == [[asked, answer]]
    assert (read.bad, read.unused) == ([], {})

    tab.run("drafting(true); draftOf(chat).push({ text: '첫 문단이다.', proposal: '' }); changed()")
    draft = saved(tmp_path, "keep-draft", tab)
    assert draft.name == f"{asked} (원고).md"
    assert draft.read_text(encoding="utf-8") == "첫 문단이다.\n"
    tab.run("drafting(false)")
