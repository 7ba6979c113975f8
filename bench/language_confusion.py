"""Mixed languages: prompts of the Language Confusion Benchmark in two halves, and foreign words in answers to them.

    python bench/language_confusion.py split --prompts DIR --out OUT    # OUT/train.txt, OUT/held-1.txt, held-2.txt ...
    mlx-loopai feedback pairs --korean 2 --prompts OUT/train.txt --model MODEL --temperature 0.3 --max-tokens 64 \
        --out own.jsonl
    mlx-loopai generate --model MODEL [--adapter RUN] --prompts OUT/held-1.txt --scripts off --no-filter \
        --temperature 0.3 --top-p 0.75 --repetition-guard 0 --max-tokens 64 --out ANSWERS.jsonl
    python bench/language_confusion.py score BEFORE.jsonl AFTER.jsonl ...

DIR holds the benchmark's CSV files for Korean (github.com/for-ai/language-confusion). A request that is asked in
several wordings is in one half only. Sets of held-out prompts have 40, so that one can be kept for the last look.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_loopai.text.scripts import script_of

MAX_PROMPT_CHARS = 160
HELD_OUT_PROMPTS = 40  # in one set
SCRIPTS = ("han", "kana", "latin")
# What asks for the language is no part of the request.
ASKS_FOR_KOREAN = re.compile(r"[^.!?\n]*\b[Kk]orean\b[^.!?\n]*[.!?]?")


@dataclass(frozen=True)
class Count:
    """Foreign words, which are unbroken runs of letters of one script, and letters of every script."""

    answers: int
    with_foreign: int
    words: dict[str, int]
    letters: int

    @property
    def per_1000(self) -> float:
        return 1000 * sum(self.words.values()) / max(1, self.letters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    split = commands.add_parser("split")
    split.add_argument("--prompts", type=Path, required=True)
    split.add_argument("--out", type=Path, required=True)
    score = commands.add_parser("score")
    score.add_argument("answers", type=Path, nargs="+")
    given = parser.parse_args()
    if given.command == "split":
        write_halves(given.prompts, given.out)
    else:
        print(json.dumps(scores(given.answers), indent=1))  # noqa: T201


def write_halves(source: Path, out: Path) -> None:
    train, held = halves(_prompts(source))
    out.mkdir(parents=True, exist_ok=True)
    sets = {"train": train} | {
        f"held-{1 + start // HELD_OUT_PROMPTS}": held[start : start + HELD_OUT_PROMPTS]
        for start in range(0, len(held), HELD_OUT_PROMPTS)
    }
    for name, prompts in sets.items():
        (out / f"{name}.txt").write_text("".join(f"{prompt}\n" for prompt in prompts), encoding="utf-8")


def _prompts(source: Path) -> Iterable[str]:
    for path in sorted(source.glob("*_ko.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            yield from (" ".join(row["prompt"].split()) for row in csv.DictReader(file))


def halves(prompts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Training and held-out prompts, in an order that depends on their words alone."""
    sides: tuple[list[str], list[str]] = [], []
    for prompt in sorted({prompt for prompt in prompts if len(prompt) <= MAX_PROMPT_CHARS}, key=_digest):
        sides[int(_digest(request(prompt)), 16) % 2].append(prompt)
    return sides


def request(prompt: str) -> str:
    """The words of a prompt without the sentence that asks for Korean; a prompt of one such sentence is its request."""
    return " ".join(re.findall(r"\w+", ASKS_FOR_KOREAN.sub(" ", prompt).casefold())) or prompt


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def scores(paths: Sequence[Path]) -> dict[str, dict[str, object]]:
    """By file: what its answers hold, and by how much that is less than in the first file's."""
    counts = {str(path): count(_answers(path)) for path in paths}
    base = next(iter(counts.values()))
    return {
        name: {
            "answers": own.answers,
            "with_foreign": own.with_foreign,
            **{f"{script}_words": own.words[script] for script in SCRIPTS},
            "letters": own.letters,
            "per_1000": own.per_1000,
            "cut": 1 - own.per_1000 / base.per_1000 if base.per_1000 else None,
        }
        for name, own in counts.items()
    }


def _answers(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines() if line]


def count(answers: Sequence[str]) -> Count:
    runs = [[(kind, len(list(run))) for kind, run in itertools.groupby(map(_kind, text))] for text in answers]
    words = {script: sum(kind == script for own in runs for kind, _ in own) for script in SCRIPTS}
    return Count(
        answers=len(answers),
        with_foreign=sum(any(kind in SCRIPTS for kind, _ in own) for own in runs),
        words=words,
        letters=sum(length for own in runs for kind, length in own if kind),
    )


def _kind(char: str) -> str:
    script = script_of(char)
    return script.value if script.is_letter else ""


if __name__ == "__main__":
    main()
