"""Data, suite and recipes of the real-model experiment, made from the user's own files.

The domain is the shape that broke models: Korean stories as the answer `{"text": [...], "metadata": {"genre": ...}}`.
Rows are written as prompt and completion, since the reader turns nested rows into prose by design.

    python bench/real_forgetting.py --model MODEL --stories DIR --dialogue CSV --paragraphs TSV --maths JSONL \
        --code JSONL.GZ --choice TSV --out DIR
    mlx-loopai train DIR/plain.yaml --out RUN
    mlx-loopai evaluate --model MODEL --adapter RUN --suite DIR/suite.yaml --json
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mlx_loopai.data.samples import texts
from mlx_loopai.data.sentences import sentence_units
from mlx_loopai.files import write_whole

SEED = 20264
HELD_OUT_ROWS = 24
GENERAL_ROWS = 12
QUESTIONS = 20  # of every kind
SENTENCES_A_ROW = 2
MIN_SENTENCE_CHARS, MAX_SENTENCE_CHARS = 20, 120
# About 100 tokens a row: 150 steps of two rows are then half an hour on one core.
MAX_ROW_CHARS = 160
GENRE = "fantasy"
STORY_PROMPTS = (
    "판타지 소설을 써주세요",
    "짧은 이야기를 하나 지어 주세요",
    "소설의 한 장면을 써 주세요",
    "옛날 분위기의 이야기를 들려주세요",
)

Row = dict[str, Any]


def story_rows(stories: Mapping[str, str]) -> list[Row]:
    """Rows of up to two sentences in the nested JSON shape; the files may break a sentence over lines."""
    rows: list[Row] = []
    for story in stories.values():
        for part in _groups(
            unit.strip() for unit in sentence_units(" ".join(story.split())) if len(unit.strip()) >= MIN_SENTENCE_CHARS
        ):
            answer = json.dumps({"text": part, "metadata": {"genre": GENRE}}, ensure_ascii=False)
            rows.append({"prompt": STORY_PROMPTS[len(rows) % len(STORY_PROMPTS)], "completion": answer})
    return rows


def _groups(sentences: Iterable[str]) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    for sentence in sentences:
        cut = sentence[:MAX_SENTENCE_CHARS]
        full = len(groups[-1]) == SENTENCES_A_ROW or sum(map(len, groups[-1])) + len(cut) > MAX_ROW_CHARS
        if groups[-1] and full:
            groups.append([])
        groups[-1].append(cut)
    return [group for group in groups if group]


def split(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Training rows, and held-out rows that share no text with them."""
    shuffled = random.Random(SEED).sample(list(rows), len(rows))
    return shuffled[HELD_OUT_ROWS:], shuffled[:HELD_OUT_ROWS]


def general_rows(rows: Iterable[Row]) -> list[Row]:
    """A seeded sample without any prompt of the embedded rehearsal set."""
    rehearsed = {_normal(prompt) for prompt in texts.prompts()}
    kept = [row for row in rows if _normal(row.get("prompt", "")) not in rehearsed]
    return random.Random(SEED).sample(kept, min(GENERAL_ROWS, len(kept)))


def _normal(text: str) -> str:
    return "".join(char for char in text.casefold() if char.isalnum())


def recipes(model: str) -> dict[str, Row]:
    """The arms: two domain rows in every step of each; rehearsal adds three of the base's answers to the step."""
    plain: Row = {
        "model": model,
        "dtype": "fp32",
        "sources": {"domain": {"path": "domain.jsonl", "category": "domain"}},
        "validation": "held_out.jsonl",
        "lora": {"rank": 16, "alpha": 32},
        "train": {
            "max_steps": 150,
            "rows_per_step": 2,
            "max_tokens": 320,
            "learning_rate": 2e-4,
            "schedule": "linear",
            "warmup": 15,
            "save_every": 30,
        },
    }
    answers = {"source": "self", "max_prompts": 300, "answer_tokens": 64}
    rehearsal = {
        "replay": {**answers, "share": 3 / 5, "loss_share": 0.3},
        "train": {**plain["train"], "rows_per_step": 5},
    }
    sketch = {"penalty": {"kind": "sketch", "strength": 0.1, "opening_share": 0.5}}
    return {
        "plain": plain,
        "rehearsal": {**plain, **rehearsal},
        "sketch": {**plain, **sketch, "replay": answers},  # importance is measured on them, none is trained on
        "rehearsal-sketch": {**plain, **rehearsal, **sketch},
    }


def _dialogue(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [{"prompt": row["Q"], "completion": row["A"]} for row in csv.DictReader(file)]


def _paragraphs(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        found = dict.fromkeys(
            row["Text"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row["Text"]
        )
    return [{"text": text} for text in found]


def _maths(path: Path) -> list[Row]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{"prompt": row["question"], "completion": row["answer"]} for row in rows]


def _code(path: Path) -> list[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [{"prompt": row["prompt"], "completion": row["canonical_solution"]} for row in map(json.loads, file)]


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write domain.jsonl, held_out.jsonl, the general rows, suite.yaml and a recipe an arm to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    for name in ("stories", "dialogue", "paragraphs", "maths", "code", "choice", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args(arguments)
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    train, held_out = split(
        story_rows({path.name: path.read_text(encoding="utf-8") for path in sorted(given.stories.glob("*.txt"))})
    )
    _write_rows(out / "domain.jsonl", train)
    _write_rows(out / "held_out.jsonl", held_out)
    sources = {
        "dialogue": _dialogue(given.dialogue),
        "paragraphs": _paragraphs(given.paragraphs),
        "maths": _maths(given.maths),
        "code": _code(given.code),
    }
    suite: dict[str, Row] = {
        "general": {"kind": "general", "max_tokens": 32, "limit": QUESTIONS},
        "domain": {"kind": "nll", "file": "held_out.jsonl"},
    }
    for name, rows in sources.items():
        _write_rows(out / f"{name}.jsonl", general_rows(rows))
        suite[name] = {"kind": "nll", "file": f"{name}.jsonl"}
    suite["choice"] = {"kind": "choice", "file": str(given.choice.resolve()), "limit": QUESTIONS}
    write_whole(out / "suite.yaml", yaml.safe_dump(suite, sort_keys=False))
    for name, recipe in recipes(given.model).items():
        write_whole(out / f"{name}.yaml", yaml.safe_dump(recipe, sort_keys=False))


if __name__ == "__main__":
    main()
