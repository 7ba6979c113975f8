"""How well the filter tells foreign runs that go from those that stay, and how much clean Korean it touches.

    python bench/filter_runs.py [tests/unit/text/foreign_runs/*.txt] [--clean FILE...] [--examples N]

A labelled line marks its runs: {-goes-}, {=stays: a name or a term=}, {+stays: the Korean sentence holds it+}. A run is
right when it is gone with all its words, or stands there whole. FILEs of --clean hold Korean prose, of which nothing
should go (addresses, HTML and emoji are not counted; lines inside code fences are left out).
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlx_loopai.text.filter import clean

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "unit" / "text" / "foreign_runs"
_LABELLED = re.compile(r"\{([-=+])(.*?)\1\}")
_WORD = re.compile(r"[^\W\d_가-힣]+")
# Rules of the filter that judge words; what they remove from clean Korean is damage.
_JUDGING = ("foreign", "code")


@dataclass(frozen=True)
class Scores:
    """Of runs that go: precision and recall; of runs that stay: the same. `runs` in all, `half` removed in part."""

    runs: int
    half: int
    gone_precision: float
    gone_recall: float
    kept_precision: float
    kept_recall: float


def labelled(path: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The lines of a labelled file without their labels, each with its runs as (label, text)."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            yield _LABELLED.sub(r"\2", line), _LABELLED.findall(line)


def outcomes(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """(label, run, what became of it: kept, gone or half, the cleaned line) of every run."""
    for line, runs in labelled(path):
        cleaned = clean(line).text
        staying = {word for label, run in runs if label != "-" for word in _WORD.findall(run)}
        left = set(_WORD.findall(cleaned))
        for label, run in runs:
            fragments = left.intersection(_WORD.findall(run)) - (staying if label == "-" else set())
            yield label, run, "kept" if run in cleaned else "half" if fragments else "gone", cleaned


def score(path: Path) -> Scores:
    counts = Counter((label != "-", outcome) for label, _, outcome, _ in outcomes(path))
    gone = counts[False, "gone"], counts[True, "gone"] + counts[True, "half"]
    kept = counts[True, "kept"], counts[False, "kept"] + counts[False, "half"]
    return Scores(
        runs=sum(counts.values()),
        half=counts[True, "half"] + counts[False, "half"],
        gone_precision=gone[0] / max(1, sum(gone)),
        gone_recall=gone[0] / max(1, gone[0] + kept[1]),
        kept_precision=kept[0] / max(1, sum(kept)),
        kept_recall=kept[0] / max(1, kept[0] + gone[1]),
    )


def damage(lines: list[str]) -> list[tuple[str, str]]:
    """The lines that lose something to the judging rules, before and after."""
    cleaned = ((line, clean(line)) for line in lines)
    return [(line, one.text) for line, one in cleaned if any(one.removed.get(rule) for rule in _JUDGING)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labelled", nargs="*", type=Path, default=sorted(FOLDER.glob("*.txt")))
    parser.add_argument("--clean", nargs="+", type=Path, default=[])
    parser.add_argument("--examples", type=int, default=0)
    options = parser.parse_args()
    report: dict[str, object] = {}
    for path in options.labelled:
        wrong = [(label, run, got) for label, run, got, _ in outcomes(path) if (label == "-") != (got == "gone")]
        report[path.name] = score(path).__dict__ | {"wrong": wrong[: options.examples]}
    if options.clean:
        # The script's folder is the first place that imports are looked for in.
        from filter_speed import is_prose, lines_of

        lines = [line for line in lines_of(options.clean) if is_prose(line)]
        touched = damage(lines)
        report["clean"] = {
            "lines": len(lines),
            "touched": len(touched),
            "share": len(touched) / max(1, len(lines)),
            "examples": touched[: options.examples],
        }
    print(json.dumps(report, ensure_ascii=False, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
