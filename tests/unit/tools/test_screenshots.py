"""Pictures of the pages: each that is taken is there, is shown in a guide of either language, and is small."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.screenshots import FOLDER, PICTURES

GUIDES = Path(__file__).parents[3] / "docs" / "guides"
MOST_BYTES = 100_000


@pytest.mark.parametrize("ending", [".md", ".ko.md"])
def test_guides_show_every_picture(ending: str) -> None:
    guides = [path for path in GUIDES.glob("*.md") if path.name.endswith(".ko.md") == (ending == ".ko.md")]
    text = "".join(path.read_text(encoding="utf-8") for path in guides)
    assert sorted(re.findall(r"\(\.\./pictures/([\w.-]+)\)", text)) == sorted(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_whole_and_small(name: str) -> None:
    data = (FOLDER / name).read_bytes()
    assert (data[:4], data[8:12]) == (b"RIFF", b"WEBP")
    assert int.from_bytes(data[4:8], "little") + 8 == len(data) < MOST_BYTES
