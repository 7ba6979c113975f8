"""Data, suite and recipes of the real-model experiment, made from the user's own files.

The domain is the shape that broke models: stories as the answer `{"text": [...], "metadata": {"genre": ...}}`, or the
same sentences as natural text (`--shape prose`). Files of another kind, such as bills of law, are asked for by
`--topic law`. Rows are written as prompt and completion, since the reader turns nested rows into prose by design.
General files that are not given are left out of the suite.

    python bench/real_forgetting.py --model MODEL --stories DIR [--language ko|en] [--shape json|prose] \
        [--topic stories|law] [--dialogue CSV] [--paragraphs TSV] [--maths JSONL] [--code JSONL.GZ] [--choice TSV] \
        --out DIR
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
from mlx_loopai.data.stories.rows import korean_share
from mlx_loopai.files import write_whole

SEED = 20264
HELD_OUT_ROWS = 24
GENERAL_ROWS = 12
QUESTIONS = 60  # of every kind
SENTENCES_A_ROW = 2
MIN_SENTENCE_CHARS, MAX_SENTENCE_CHARS = 20, 120
# About 100 tokens a row: 150 steps of two rows are then half an hour on one core.
MAX_ROW_CHARS = 160
GENRE = "fantasy"
DASHES = "--"
PROMPTS = {
    ("stories", "ko"): (
        "판타지 소설을 써주세요",
        "짧은 이야기를 하나 지어 주세요",
        "소설의 한 장면을 써 주세요",
        "옛날 분위기의 이야기를 들려주세요",
    ),
    ("stories", "en"): (
        "Write a fantasy story",
        "Make up a short story",
        "Write a scene of a novel",
        "Tell a tale of long ago",
    ),
    ("law", "ko"): (
        "법률 개정안의 한 대목을 써 주세요",
        "법률안의 조문을 작성해 주세요",
        "법을 고치는 이유를 법률안의 문체로 써 주세요",
        "의안의 본문 일부를 써 주세요",
    ),
    ("law", "en"): (
        "Write a passage of a bill",
        "Draft a section of an act",
        "Give the reasons for an amendment in the style of a bill",
        "Write a part of a statute",
    ),
}
SUFFIXES = {"ko": "*.txt", "en": "*.md"}

Row = dict[str, Any]


def domain_rows(
    stories: Mapping[str, str], language: str = "ko", shape: str = "json", topic: str = "stories"
) -> list[Row]:
    """Rows of up to two sentences of `language`; files may break a sentence over lines and hold other languages.

    Lines of dashes, with which bills of law compare old and new, are left out with their sentence.
    """
    rows: list[Row] = []
    prompts = PROMPTS[topic, language]
    for story in stories.values():
        sentences = (unit.strip() for unit in sentence_units(" ".join(story.split())))
        for part in _groups(
            one
            for one in sentences
            if len(one) >= MIN_SENTENCE_CHARS and DASHES not in one and (korean_share(one) >= 0.5) == (language == "ko")
        ):
            nested = json.dumps({"text": part, "metadata": {"genre": GENRE}}, ensure_ascii=False)
            answer = nested if shape == "json" else "\n\n".join(part)
            rows.append({"prompt": prompts[len(rows) % len(prompts)], "completion": answer})
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
    """The arms: four domain rows in every step of each; rehearsal adds four of the base's answers to the step."""
    plain: Row = {
        "model": model,
        "dtype": "fp32",
        "sources": {"domain": {"path": "domain.jsonl", "category": "domain"}},
        "validation": "held_out.jsonl",
        "lora": {"rank": 16, "alpha": 32},
        "train": {
            "max_steps": 150,
            "rows_per_step": 4,
            "max_tokens": 320,
            "learning_rate": 2e-4,
            "schedule": "linear",
            "warmup": 15,
            "save_every": 30,
        },
    }
    answers = {"source": "self", "max_prompts": 400, "answer_tokens": 48}
    mixed = {**answers, "share": 1 / 2, "loss_share": 0.4}
    with_rehearsal = {"train": {**plain["train"], "rows_per_step": 8}}
    sketch = {"penalty": {"kind": "sketch", "strength": 0.1, "opening_share": 0.5}}
    return {
        "plain": plain,
        "rehearsal": {**plain, **with_rehearsal, "replay": mixed},
        "rehearsal-kl": {**plain, **with_rehearsal, "replay": {**mixed, "objective": "kl", "kl_strength": 2.0}},
        "sketch": {**plain, **sketch, "replay": answers},  # importance is measured on them, none is trained on
        "rehearsal-sketch": {**plain, **with_rehearsal, **sketch, "replay": mixed},
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
    """Write domain.jsonl, held_out.jsonl, the general rows, suite.yaml and a recipe for each arm to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    for name in ("stories", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("dialogue", "paragraphs", "maths", "code", "choice"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--language", choices=list(SUFFIXES), default="ko")
    parser.add_argument("--topic", choices=sorted({topic for topic, _ in PROMPTS}), default="stories")
    parser.add_argument("--shape", choices=["json", "prose"], default="json")
    given = parser.parse_args(arguments)
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    files = sorted(given.stories.glob(SUFFIXES[given.language]))
    stories = {path.name: path.read_text(encoding="utf-8") for path in files}
    train, held_out = split(domain_rows(stories, given.language, given.shape, given.topic))
    _write_rows(out / "domain.jsonl", train)
    _write_rows(out / "held_out.jsonl", held_out)
    readers = {"dialogue": _dialogue, "paragraphs": _paragraphs, "maths": _maths, "code": _code}
    sources = {name: read(getattr(given, name)) for name, read in readers.items() if getattr(given, name)}
    suite: dict[str, Row] = {
        "general": {"kind": "general", "max_tokens": 32, "limit": QUESTIONS},
        "domain": {"kind": "nll", "file": "held_out.jsonl"},
    }
    for name, rows in sources.items():
        _write_rows(out / f"{name}.jsonl", general_rows(rows))
        suite[name] = {"kind": "nll", "file": f"{name}.jsonl"}
    if given.choice:
        suite["choice"] = {"kind": "choice", "file": str(given.choice.resolve()), "limit": QUESTIONS}
    write_whole(out / "suite.yaml", yaml.safe_dump(suite, sort_keys=False))
    for name, recipe in recipes(given.model).items():
        write_whole(out / f"{name}.yaml", yaml.safe_dump(recipe, sort_keys=False))


if __name__ == "__main__":
    main()
