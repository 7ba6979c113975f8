"""How well and how fast passages are found.

    python bench/retrieval.py quality KOBEST/BoolQ_train.tsv KOBEST/BoolQ_dev.tsv [--out docs/results/retrieval.json]
    python bench/retrieval.py speed KOBEST/BoolQ_train.tsv --index DIR [--passages 100000]

quality: each question of BoolQ (columns ID, Text, Question, Answer) must find its own paragraph among all paragraphs of
the file. The same BM25 counts character pairs (as the index does) and whitespace words.

speed: an index of made-up passages, drawn from the file's sentences by seed, is built at --index unless it is there;
then the file's questions are asked. Times are of `Index.search`, each question once after one round of warming up.

Results go into --out, and from there into the tables of docs/retrieval.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlx_loopai.benchmark.conditions import SystemReader, read_machine
from mlx_loopai.data.sentences import sentence_units
from mlx_loopai.retrieval.bm25 import Bm25, build_bm25
from mlx_loopai.retrieval.index import build_index, open_index
from mlx_loopai.retrieval.store import MANIFEST
from mlx_loopai.retrieval.terms import Terms, text_terms
from tools.doc_markers import with_marked

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "retrieval.md"
RESULTS = ROOT / "docs" / "results" / "retrieval.json"
RESAMPLES = 2000
QUESTIONS = 200
TOP = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "speed"))
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    results = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    if options.what == "quality":
        results["quality"] = {file.stem: quality(read_questions(file)) for file in options.files}
    else:
        results["speed"] = speed(read_questions(options.files[0]), options.index, options.passages)
    options.out.write_text(json.dumps(results, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    if options.out == RESULTS:
        DOCUMENT.write_text(with_tables(DOCUMENT.read_text(encoding="utf-8"), results), encoding="utf-8")
    print(json.dumps(results[options.what], ensure_ascii=False, indent=2))  # noqa: T201


def read_questions(path: Path) -> list[tuple[str, str]]:
    """(question, its paragraph) of each row."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [
            (row["Question"], row["Text"]) for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        ]


def quality(questions: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Recall and reciprocal rank of both ways of counting, and the gain in R@1 with its paired 95 % interval."""
    paragraphs = list(dict.fromkeys(paragraph for _, paragraph in questions))
    gold = {paragraph: number for number, paragraph in enumerate(paragraphs)}
    asked = [(question, gold[paragraph]) for question, paragraph in questions]
    found = {"pairs": ranks(text_terms, paragraphs, asked), "words": ranks(WordTerms(), paragraphs, asked)}
    gain = (found["pairs"] == 1).astype(float) - (found["words"] == 1)
    draws = np.random.default_rng(0).integers(0, len(gain), (RESAMPLES, len(gain)))
    return {
        "questions": len(asked),
        "paragraphs": len(paragraphs),
        **{name: _measures(places) for name, places in found.items()},
        "gain_r1": float(gain.mean()),
        "gain_r1_interval": np.quantile(gain[draws].mean(axis=1), (0.025, 0.975)).tolist(),
    }


class WordTerms:
    """Whitespace words as terms, numbered as they come."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __call__(self, text: str) -> Terms:
        return np.array([self._numbers.setdefault(word, len(self._numbers)) for word in text.split()], np.int64)


def ranks(terms: Callable[[str], Terms], paragraphs: Sequence[str], asked: Sequence[tuple[str, int]]) -> np.ndarray:
    """The rank of each question's own paragraph, from 1; ties count against it."""
    bm25 = Bm25(build_bm25([terms(paragraph) for paragraph in paragraphs]), len(paragraphs))
    places = []
    for question, own in asked:
        scores = bm25.score_terms(terms(question))
        places.append(int((scores >= scores[own]).sum()))
    return np.array(places)


def _measures(places: np.ndarray) -> dict[str, float]:
    recalls = {f"r{depth}": float((places <= depth).mean()) for depth in (1, 5, 10)}
    return {**recalls, "mrr10": float(np.where(places <= 10, 1 / places, 0).mean())}


def speed(questions: Sequence[tuple[str, str]], index: Path, n_passages: int) -> dict[str, Any]:
    """Milliseconds per question, on an index of `n_passages` passages."""
    if not (index / MANIFEST).exists():
        rows = index.with_suffix(".jsonl")
        with rows.open("w", encoding="utf-8") as stream:
            for passage in made_passages([paragraph for _, paragraph in questions], n_passages):
                stream.write(json.dumps({"text": passage}, ensure_ascii=False) + "\n")
        build_index([rows], index)
    asked = [question for question, _ in questions[:QUESTIONS]]
    started = time.perf_counter()
    with open_index(index) as opened:
        open_s = time.perf_counter() - started
        times = [_timed(lambda question=question: opened.search(question, TOP)) for question in asked * 2]
        passages = opened.manifest.passages
    machine = read_machine(SystemReader())
    milliseconds = sorted(1000 * seconds for seconds in times[len(asked) :])
    return {
        "machine": {key: getattr(machine, key) for key in ("chip", "cores", "commit", "system")},
        "passages": passages,
        "questions": len(asked),
        "open_s": open_s,
        "median_ms": statistics.median(milliseconds),
        "p95_ms": milliseconds[int(0.95 * len(milliseconds))],
        "max_ms": milliseconds[-1],
    }


def made_passages(paragraphs: Sequence[str], count: int) -> list[str]:
    """`count` distinct passages of about 300 characters, each of sentences drawn by seed."""
    sentences = [unit.strip() for paragraph in paragraphs for unit in sentence_units(paragraph) if unit.strip()]
    drawn = random.Random(0)
    passages: dict[str, None] = {}
    while len(passages) < count:
        text = ""
        while len(text) < 250:
            text = f"{text} {drawn.choice(sentences)}".strip()
        passages[text[:390]] = None
    return list(passages)


def _timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def with_tables(document: str, results: dict[str, Any]) -> str:
    """The document with its tables made of `results`."""
    for name, table in (("quality", quality_table), ("speed", speed_table)):
        text = table(results[name]) if name in results else "Not measured."
        document = with_marked(document, name, text, DOCUMENT)
    return document


def quality_table(results: dict[str, Any]) -> str:
    lines = [
        "| file | questions | paragraphs | terms | R@1 | R@5 | R@10 | MRR@10 |",
        "|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    for name, found in results.items():
        for key, terms in (("words", "whitespace words"), ("pairs", "character pairs")):
            figures = " | ".join(f"{found[key][measure]:.3f}" for measure in ("r1", "r5", "r10", "mrr10"))
            lines.append(f"| {name} | {found['questions']} | {found['paragraphs']} | {terms} | {figures} |")
    gains = "; ".join(
        f"{name} +{found['gain_r1']:.3f} ({found['gain_r1_interval'][0]:.3f} to {found['gain_r1_interval'][1]:.3f})"
        for name, found in results.items()
    )
    return "\n".join([*lines, "", f"Gain in R@1 with its paired 95 % bootstrap interval: {gains}."])


def speed_table(found: dict[str, Any]) -> str:
    head = "| passages | questions | median | 95th percentile | slowest | opening |\n|---:|---:|---:|---:|---:|---:|\n"
    figures = " | ".join(f"{found[key]:.1f} ms" for key in ("median_ms", "p95_ms", "max_ms"))
    row = f"| {found['passages']} | {found['questions']} | {figures} | {found['open_s']:.1f} s |\n"
    machine = f"{found['machine']['chip']}, {found['machine']['cores']} cores, {found['machine']['system']}"
    return f"{head}{row}\n{machine}."


if __name__ == "__main__":
    main()
