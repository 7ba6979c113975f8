"""docs/architecture.svg: which room imports which, read from the code.

A square at (row, column) means that some module of the row's room imports one of the column's. The rooms stand in the
order of import-linter's contract, so imports go down exactly when every square lies right of the diagonal. `make docs`
writes the picture; a test fails when it is stale. Run as `python -m tools.room_picture [FILE]`.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

import grimp

ROOT = Path(__file__).parents[1]
PACKAGE = "mlx_loopai"
# Not rooms of the package: nothing uses the tools, and only the rooms of `_ABOVE_CONVERTERS` use the converters.
_OUTSIDE = ("tools", "converters")
_ABOVE_CONVERTERS = ("cli", "library")

_CELL = 24
_LEFT = 130
_TOP = 110
_COLOURS = {"paper": "#ffffff", "ink": "#1f2328", "line": "#d0d7de", "self": "#d0d7de", "use": "#0969da"}


def rooms() -> list[str]:
    """The rooms from top to bottom, as import-linter holds them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(entry for entry in settings["tool"]["importlinter"]["contracts"] if entry["type"] == "layers")
    layers = [room.strip("() ") for layer in contract["layers"] for room in layer.replace(":", "|").split("|")]
    below = [room for room in layers if room not in _ABOVE_CONVERTERS]
    return ["tools", *_ABOVE_CONVERTERS, "converters", *below]


def uses() -> set[tuple[str, str]]:
    """Pairs of rooms: a module of the first imports one of the second."""
    graph = grimp.build_graph(PACKAGE, *_OUTSIDE, cache_dir=None)
    found = {
        (_room(importer), _room(imported))
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
    }
    known = set(rooms())
    return {pair for pair in found if pair[0] != pair[1] and set(pair) <= known}


def _room(module: str) -> str:
    """`mlx_loopai.data.tokens` is in `data`, `converters.convert` in `converters`."""
    top, _, rest = module.partition(".")
    return rest.partition(".")[0] if top == PACKAGE else top


def picture() -> str:
    """The SVG."""
    names, found = rooms(), uses()
    size = len(names) * _CELL
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + size + 20} {_TOP + size + 20}" '
        f'width="{_LEFT + size + 20}" font-family="ui-monospace, Menlo, monospace" font-size="12">',
        "<title>Which room imports which</title>",
        f'<rect width="100%" height="100%" fill="{_COLOURS["paper"]}"/>',
    ]
    for row, importer in enumerate(names):
        parts += [_label(row, importer), *(_square(row, column, names, found) for column in range(len(names)))]
    return "\n".join([*(part for part in parts if part), "</svg>"]) + "\n"


def _label(index: int, name: str) -> str:
    """The room's name before its row and, turned, above its column."""
    start = index * _CELL
    middle = start + _CELL // 2 + 4
    ink = _COLOURS["ink"]
    return (
        f'<text x="{_LEFT - 8}" y="{_TOP + middle}" text-anchor="end" fill="{ink}">{escape(name)}</text>\n'
        f'<text transform="translate({_LEFT + middle} {_TOP - 8}) rotate(-60)" fill="{ink}">{escape(name)}</text>\n'
        f'<path d="M{_LEFT} {_TOP + start}h{start + _CELL}M{_LEFT + start} {_TOP}v{start + _CELL}" '
        f'fill="none" stroke="{_COLOURS["line"]}"/>'
    )


def _square(row: int, column: int, names: list[str], found: set[tuple[str, str]]) -> str:
    importer, imported = names[row], names[column]
    if row != column and (importer, imported) not in found:
        return ""
    x, y, side = _LEFT + column * _CELL + 4, _TOP + row * _CELL + 4, _CELL - 8
    if row == column:
        return f'<rect x="{x}" y="{y}" width="{side}" height="{side}" rx="3" fill="{_COLOURS["self"]}"/>'
    title = f"<title>{escape(importer)} imports {escape(imported)}</title>"
    return f'<rect x="{x}" y="{y}" width="{side}" height="{side}" rx="3" fill="{_COLOURS["use"]}">{title}</rect>'


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else "docs/architecture.svg").write_text(picture(), encoding="utf-8")
