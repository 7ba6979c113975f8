"""How fast the text filter is, beside a chain of regular expressions, and how much clean Korean it touches.

    python bench/filter_speed.py FILE... [--noisy-share 0.02]

The chain stands for the usual way: one substitution per rule (tags, addresses, code, emoji, Han, English words, then
white space), each over the whole text. Both run on the same text, in turns; the best of three counts.
Prose are the lines outside code fences that are mostly Hangul and hold neither an address nor a tag nor a link.
A share of the lines gets a tag, an English word, an emoji or a Chinese word, so that there is something to remove.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

from mlx_loopai.text.filter import Filter, clean

ROUNDS = 3
NOISE = (" <b>굵게</b>", " suddenly", " 😀", " 突然", " https://example.com/a", " `code`")
CHAIN = (
    (re.compile(r"```[\s\S]*?```"), ""),
    (re.compile(r"`[^`]*`"), ""),
    (re.compile(r"<[^>]+>"), ""),
    (re.compile(r"https?://\S+"), ""),
    (re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]"), ""),
    (re.compile(r"[\u4e00-\u9fff]+"), ""),
    (re.compile(r"[\u3040-\u30ff]+"), ""),
    (re.compile(r"\b[a-zA-Z]{3,}\b"), ""),
    (re.compile(r"[ \t]+"), " "),
    (re.compile(r"\n{3,}"), "\n\n"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--noisy-share", type=float, default=0.02)
    parser.add_argument("--megabytes", type=float, default=4.0)
    parser.add_argument("--examples", type=int, default=0, help="how many touched lines of prose to show")
    options = parser.parse_args()
    lines = lines_of(options.files)
    prose = _repeated("\n".join(lines) + "\n", options.megabytes)
    noisy = _repeated(with_noise(lines, options.noisy_share), options.megabytes)
    touched = [line for line in lines if set(clean(line).removed) - {"nfc"}]
    prose_touched = [line for line in touched if is_prose(line)]
    prose_lines = sum(is_prose(line) for line in lines)
    report = {
        "lines": len(lines),
        "lines_touched": len(touched),
        "prose_lines": prose_lines,
        "prose_lines_touched": len(prose_touched),
        "prose_touched_share": len(prose_touched) / max(1, prose_lines),
        "examples": prose_touched[: options.examples],
        "clean_text": _speeds(prose),
        "noisy_text": _speeds(noisy),
    }
    print(json.dumps(report, ensure_ascii=False, indent=2))  # noqa: T201


def lines_of(files: list[Path]) -> list[str]:
    """The lines of text files outside code fences, without blank ones."""
    return [line for file in files for line in _outside_fences(file.read_text(encoding="utf-8-sig"))]


def _outside_fences(text: str) -> list[str]:
    lines, fenced = [], False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and line.strip():
            lines.append(line)
    return lines


def is_prose(line: str) -> bool:
    """True for a line that is mostly Hangul and holds neither an address nor a tag nor a link."""
    bare = re.sub(r"`[^`]*`", "", line)
    letters = [char for char in bare if char.isalpha()]
    hangul = sum("\uac00" <= char <= "\ud7a3" for char in letters)
    return 2 * hangul > len(letters) and not re.search(r"https?://|www\.|</?[A-Za-z!]|\]\(|^\[.*\]:", bare)


def _speeds(text: str) -> dict[str, float]:
    megabytes = len(text.encode()) / 1e6
    seconds = {"filter": float("inf"), "chain": float("inf")}
    for _ in range(ROUNDS):
        for name, run in (("filter", _filtered), ("chain", _chained)):
            seconds[name] = min(seconds[name], _timed(run, text))
    return {
        "filter_mb_per_s": megabytes / seconds["filter"],
        "chain_mb_per_s": megabytes / seconds["chain"],
        "ratio": seconds["chain"] / seconds["filter"],
    }


def _timed(run: Callable[[str], str], text: str) -> float:
    """Seconds of processor time, which other work on the machine hardly changes."""
    started = time.process_time()
    run(text)
    return time.process_time() - started


def _filtered(text: str) -> str:
    scanner = Filter()
    step = 1 << 16
    pieces = [scanner.feed(text[start : start + step]) for start in range(0, len(text), step)]
    return "".join(pieces) + scanner.close()


def _chained(text: str) -> str:
    for pattern, replacement in CHAIN:
        text = pattern.sub(replacement, text)
    return text


def with_noise(lines: list[str], share: float) -> str:
    """The lines as one text; a share of them gets something to remove."""
    every = max(1, round(1 / share))
    noisy = (line + NOISE[index // every % len(NOISE)] * (index % every == 0) for index, line in enumerate(lines))
    return "\n".join(noisy) + "\n"


def _repeated(text: str, megabytes: float) -> str:
    return text * max(1, round(megabytes * 1e6 / len(text.encode())))


if __name__ == "__main__":
    main()
