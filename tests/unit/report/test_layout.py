"""The reports on a wide screen and on a telephone: no column is cut, no figure breaks, nothing shuts people out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.evaluation.gate import Gate
from mlx_loopai.report.pages.comparison import comparison_page
from mlx_loopai.report.pages.run import run_page
from mlx_loopai.runs.documents.comparison import Comparison
from tests.unit.report.test_run import run_of
from tests.unit.serving.browser import Tab, open_tab, serious_findings

# Cells whose text takes more than one line though it holds no space to break at.
BROKEN = """[...document.querySelectorAll('td, th')].filter((cell) => {
  const range = document.createRange();
  range.selectNodeContents(cell);
  return /^[\\d.,%+-]+$/.test(cell.textContent.trim()) && new Set([...range.getClientRects()].map((one) => Math.round(one.top))).size > 1;
}).map((cell) => cell.textContent)"""
OUTSIDE = """[...document.querySelectorAll('body *')].filter((one) => {
  const box = one.getBoundingClientRect();
  return box.width && box.right > window.innerWidth + 0.5 && getComputedStyle(one).position !== 'absolute';
}).map((one) => one.tagName + ' ' + one.className + ' ' + one.textContent.slice(0, 40))"""


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with open_tab() as tab:
        for domain in ("Page", "Runtime"):
            tab.call(f"{domain}.enable")
        yield tab


@pytest.fixture(params=["comparison", "run"])
def page(request: pytest.FixtureRequest, document: dict[str, Any], events: list[dict[str, Any]], tmp_path: Path) -> str:
    if request.param == "comparison":
        html = comparison_page(Comparison.from_json(document, "demo.json"), Gate())
    else:
        html = run_page(run_of("runs/first", events))
    place = tmp_path / "report.html"
    place.write_text(html, encoding="utf-8")
    return place.as_uri()


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_everything_can_be_read(tab: Tab, page: str, width: int, dark: bool) -> None:
    tab.resize(width, 800)
    tab.darken(dark)
    tab.call("Page.navigate", url=page)
    tab.wait_for("document.readyState === 'complete' && document.querySelector('main') !== null")
    assert tab.run(BROKEN) == []
    assert tab.run(OUTSIDE) == []
    assert serious_findings(tab) == []
