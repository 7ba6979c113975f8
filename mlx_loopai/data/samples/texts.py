"""Reads the hand-written texts: stories, dialogues and explanations, each block under a `# ` header."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mlx_loopai.data.samples.composed_prompts import WATCHED, composed_prompts

TEXTS_FOLDER = Path(__file__).parent / "texts"
PROMPTS_FILE = Path(__file__).parent / "prompts.jsonl"
PARALLEL_FILE = Path(__file__).parent / "parallel.jsonl"
# Which kinds of prompts ask for the same ability. The forgetting budget reads abilities: it has too few rows for kinds.
ABILITIES = {
    "korean": ("ko_question", "ko_instruction"),
    "korean_chat": ("ko_chat", "ko_talk", "ko_talk_request"),
    "korean_writing": ("ko_sentence", "ko_passage", "ko_sentence_request", "ko_passage_request"),
    "english": ("en_question", "en_chat"),
    "chinese": ("zh_question",),
    "sums": ("maths", "sums"),
    "code": ("code", "prints"),
    "translation": ("translation", "words"),
    "short_answers": ("short_facts", "forms"),
}


@dataclass(frozen=True)
class Block:
    """`header`: the line after `# `; `lines`: the non-empty lines below it."""

    header: str
    lines: tuple[str, ...]


@cache
def blocks(prefix: str) -> tuple[Block, ...]:
    """All blocks of the text files whose name starts with `prefix`, in file and line order."""
    found: list[Block] = []
    for path in sorted(TEXTS_FOLDER.glob(f"{prefix}*.txt")):
        header = ""
        lines: list[str] = []
        for line in [*path.read_text(encoding="utf-8").splitlines(), "# "]:
            if line.startswith("# "):
                if lines:
                    found.append(Block(header, tuple(lines)))
                header, lines = line[2:].strip(), []
            elif line.strip():
                lines.append(line.strip())
    return tuple(found)


def is_held_out(position: int) -> bool:
    """Every tenth hand-written block is kept from pretraining, to measure perplexity on text never seen."""
    return position % 10 == 9


def prompts() -> list[str]:
    """The embedded prompt set that a base model answers for rehearsal: general, no stories."""
    lines = PROMPTS_FILE.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def prompts_by_kind() -> dict[str, list[str]]:
    """The prompts of `prompts` by kind, and the composed ones for the skills that a base loses first."""
    found: dict[str, list[str]] = {}
    for line in map(json.loads, PROMPTS_FILE.read_text(encoding="utf-8").splitlines()):
        found.setdefault(line["kind"], []).append(line["prompt"])
    return found | composed_prompts()


@cache
def abilities() -> dict[str, str]:
    """The ability that each embedded prompt asks for, a name of `ABILITIES`."""
    kinds = prompts_by_kind()
    asking = {ability: (*names, f"{WATCHED}{ability}") for ability, names in ABILITIES.items()}
    return {prompt: ability for ability, names in asking.items() for name in names for prompt in kinds[name]}


@cache
def watched_alone() -> frozenset[str]:
    """The embedded prompts that the monitor reads and no run rehearses."""
    kinds = composed_prompts()
    return frozenset(prompt for kind, prompts in kinds.items() if kind.startswith(WATCHED) for prompt in prompts)


def parallel_sentences() -> list[tuple[str, str]]:
    """(Korean, English) sentences that say the same; written for this project."""
    lines = PARALLEL_FILE.read_text(encoding="utf-8").splitlines()
    return [(pair["korean"], pair["english"]) for pair in map(json.loads, lines)]
