"""README's table and picture are what the committed result says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import publish_comparison as publish


@pytest.mark.parametrize("path", publish.READMES, ids=lambda path: path.name)
def test_the_readme_holds_the_table_of_the_committed_result(path: Path) -> None:
    readme = path.read_text(encoding="utf-8")
    comparison = publish.read_result()
    assert publish.table(comparison) in readme
    assert publish.with_table(readme, comparison) == readme


def test_the_picture_is_drawn_from_the_committed_result() -> None:
    assert publish.PICTURE.read_text(encoding="utf-8") == publish.picture(publish.read_result())
