"""Documents whose tables a command writes: what stands between two markers is replaced, the rest is its author's."""

from __future__ import annotations

from mlx_loopai.errors import InputError


def with_marked(document: str, name: str, between: str, where: object) -> str:
    """`document` with the lines `between` those that mark where `name` begins and ends.

    Raises: InputError, which names `where` the document is from, without the two markers.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, found, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise InputError(f"{where}: no markers for the {name}; keep the lines {begin.strip()} and {end}")
    return f"{before}{begin}{between}\n{end}{after}"
