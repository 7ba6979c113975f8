"""Writes the committed results of races into docs/benchmarks.md.

python -m tools.publish_races        after a race wrote bench/results/NAME.json
"""

from __future__ import annotations

import re
from pathlib import Path

from mlx_loopai.benchmark.tables import conditions_text, result_table
from mlx_loopai.files import write_whole
from mlx_loopai.runs.documents.race import read_race

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
_PLACE = re.compile(r"(<!-- result (?P<name>[\w-]+): begin -->\n).*?(<!-- result (?P=name): end -->)", re.DOTALL)
NOT_MEASURED = "Not measured. On a Mac, `make bench-mac` fills this in."


def with_results(document: str, results: Path) -> str:
    """The document with the table of `results`/NAME.json between the markers of each NAME."""

    def filled(found: re.Match[str]) -> str:
        return found[1] + _entry(results / (found["name"] + ".json")) + "\n" + found[3]

    return _PLACE.sub(filled, document)


def _entry(path: Path) -> str:
    if not path.exists():
        return NOT_MEASURED
    result = read_race(path)
    return "\n".join([result_table(result), "", f"{conditions_text(result)}", "", f"`{result.command}`"])


def main() -> None:
    """Bring docs/benchmarks.md up to date."""
    write_whole(DOCUMENT, with_results(DOCUMENT.read_text(encoding="utf-8"), RESULTS))


if __name__ == "__main__":
    main()
