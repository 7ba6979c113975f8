"""docs/architecture.svg shows the imports that the code has."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from tools.room_picture import picture, rooms, uses

DOCUMENT = Path(__file__).parents[3] / "docs" / "architecture.svg"


def test_the_picture_is_fresh() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == picture(), "docs/architecture.svg is stale: run `make docs`"


def test_every_square_lies_right_of_the_diagonal() -> None:
    names = rooms()
    assert not [(importer, imported) for importer, imported in uses() if names.index(importer) > names.index(imported)]


def test_it_is_an_svg_with_a_square_for_each_use() -> None:
    root = ElementTree.fromstring(picture())
    titles = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert "training imports guards" in titles
    assert len(titles) == 1 + len(uses())


def test_every_room_is_there() -> None:
    folders = {path.parent.name for path in (DOCUMENT.parents[1] / "mlx_loopai").glob("*/__init__.py")}
    assert folders <= set(rooms())
