"""A tab of a headless Chromium for a test, and what axe-core finds on its page."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import browser
from tools.browser import Tab

# `make test-js` installs it there.
AXE = Path(__file__).parents[3] / "build" / "js" / "node_modules" / "axe-core" / "axe.min.js"
_SERIOUS = """axe.run(document, { resultTypes: ['violations'] }).then((found) => found.violations
  .filter((one) => ['serious', 'critical'].includes(one.impact))
  .flatMap((one) => one.nodes.map((node) => one.id + ': ' + node.target.join(' ') + ' ' + node.failureSummary)))"""


@contextlib.contextmanager
def open_tab() -> Iterator[Tab]:
    """A tab; the test is skipped where there is no browser."""
    with contextlib.ExitStack() as stack:
        try:
            tab = stack.enter_context(browser.open_tab())
        except browser.NoBrowserError as reason:
            pytest.skip(str(reason))
        yield tab


def serious_findings(tab: Tab) -> list[str]:
    """What axe-core finds on the page that shuts people out; the test is skipped where axe-core is not installed."""
    if not AXE.is_file():
        pytest.skip("axe-core is not installed; `make test-js` does that")
    tab.run(AXE.read_text(encoding="utf-8") + "; undefined")
    found: list[str] = tab.run(_SERIOUS)
    return found
