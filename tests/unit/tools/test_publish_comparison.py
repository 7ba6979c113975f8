"""README's table and picture are what the committed result says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import publish_comparison as publish


@pytest.mark.parametrize("path", publish.READMES, ids=lambda path: path.name)
def test_the_readme_holds_the_table_of_the_committed_result(path: Path) -> None:
    readme = path.read_text(encoding="utf-8")
    assert publish.with_table(readme, publish.read_result(), path) == readme


def test_every_word_of_the_table_is_translated() -> None:
    shown = publish.table(publish.read_result())
    assert [word for word in publish.KOREAN if word not in shown] == []
    assert publish.table(publish.read_result()) in publish.READMES[0].read_text(encoding="utf-8")


def test_the_picture_is_drawn_from_the_committed_result() -> None:
    assert publish.PICTURE.read_text(encoding="utf-8") == publish.picture(publish.read_result())
