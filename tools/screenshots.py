"""The pictures of the pages in docs/pictures, taken by a headless Chromium of what the commands themselves serve.

Run as `python -m tools.screenshots`: it trains nano for some steps, opens the writing page on the result, the page that
watches a run, and the report. Without a Chromium it leaves the pictures as they are.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.browser import NoBrowserError, Tab, open_tab

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
# What each shows: the draft beside the chat, two answers side by side, the page on a telephone, a run, a report.
PICTURES = ("writing.webp", "side-by-side.webp", "telephone.webp", "watch.webp", "report.webp")
_WIDE, _TALL, _NARROW = (1280, 800), (1280, 1200), (390, 844)
_RUN = "runs/first"
_COMMAND = (sys.executable, "-m", "mlx_loopai", "--lang", "ko")
_QUICK = ("train.max_steps=24", "train.rows_per_step=4", "train.save_every=8", "forgetting.questions=8",
          "replay.max_prompts=48")  # fmt: skip
_REQUEST = "호랑이 이야기를 들려줘."


def main(folder: Path = FOLDER) -> None:
    """Take all pictures anew."""
    try:
        with open_tab() as tab, tempfile.TemporaryDirectory() as scratch:
            _train(Path(scratch))
            shoot(tab, Path(scratch), folder)
    except NoBrowserError as reason:
        sys.stderr.write(f"{reason}: the pictures in {folder} stay as they are\n")


def _train(place: Path) -> None:
    settings = [argument for one in _QUICK for argument in ("--set", one)]
    command = [*_COMMAND, "train", "--model", "nano", "--data", "samples/creative", "--out", _RUN, *settings]
    command.append("--watch")  # somebody looks: the answers of every save are kept
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=place)


def shoot(tab: Tab, place: Path, folder: Path) -> None:
    """Take all pictures of the run that was trained in the folder `place`, into `folder`."""
    folder.mkdir(exist_ok=True)
    for domain in ("Page", "Network", "Runtime"):
        tab.call(f"{domain}.enable")
    tab.call("Network.setUserAgentOverride", userAgent="screenshots", acceptLanguage="ko-KR")
    with _serving(place, "serve", "--adapter", _RUN) as url:
        _writing(tab, url, folder)
    with _serving(place, "watch", _RUN) as url:
        _visit(tab, url, "document.querySelector('#samples h3') !== null", _TALL)
        tab.picture(folder / "watch.webp")
    _visit(tab, (place / _RUN / "report.html").as_uri(), "document.readyState === 'complete'", _WIDE)
    tab.picture(folder / "report.webp")


def _writing(tab: Tab, url: str, folder: Path) -> None:
    _visit(tab, url, "served.writers.length > 1", _WIDE)
    tab.run("at('temperature').value = 0; at('temperature').dispatchEvent(new Event('change'))")
    _ask(tab, _REQUEST, 2)
    _answering(tab, "nano")
    tab.run("beside(chat.turns[1])")
    tab.wait_for("running === null && document.querySelectorAll('.pair section').length === 2")
    tab.picture(folder / "side-by-side.webp")
    _answering(tab, "nano:first")
    tab.run("pick(chat.turns[1], chat.turns[1].beside[0]); intoDraft(shownOf(chat.turns[1]).text)")
    tab.run("settle(proposed(chat), true)")
    _ask(tab, "이야기를 더 들려줘.", 4)
    tab.run("intoDraft(shownOf(chat.turns[3]).text)")
    tab.picture(folder / "writing.webp")
    tab.resize(*_NARROW)
    tab.darken(True)
    tab.run("drafting(false); window.scrollTo(0, 0)")
    tab.picture(folder / "telephone.webp")
    tab.darken(False)


def _ask(tab: Tab, text: str, turns: int) -> None:
    tab.run(f"at('prompt').value = {json.dumps(text)}; at('form').requestSubmit()")
    tab.wait_for(f"running === null && chat.turns.length === {turns}")


def _answering(tab: Tab, name: str) -> None:
    tab.run(f"at('answering').value = '{name}'; at('answering').dispatchEvent(new Event('change'))")


def _visit(tab: Tab, url: str, ready: str, size: tuple[int, int]) -> None:
    tab.resize(*size)
    tab.call("Page.navigate", url="about:blank")  # so that the condition is not met by the page before
    tab.call("Page.navigate", url=url)
    tab.wait_for(f"document.body !== null && location.href.startsWith({json.dumps(url)})")
    tab.wait_for(ready)


@contextmanager
def _serving(place: Path, *arguments: str) -> Iterator[str]:
    """Run a command that serves a page, in the folder `place`. Yields: its address."""
    command = [*_COMMAND, *arguments, "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=place) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    main()
