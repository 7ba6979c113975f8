"""Shows two files of texts to a judge model, pair by pair and in both orders, and keeps the judgements."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.evaluation.rubric import (
    NAMES,
    OVERALL,
    TIE,
    VERSION,
    A,
    Judgement,
    Pair,
    merged,
    question,
    read_judgement,
    summary,
)
from mlx_loopai.evaluation.text_metrics import Generated
from mlx_loopai.language import tr
from mlx_loopai.progress import Advance, ignore

Ask = Callable[[list[dict[str, str]]], str]
ANSWERS_PER_QUESTION = 3


@dataclass(frozen=True)
class Judgements:
    """Verdicts by (pair, judge, order), kept in a JSONL file that a second run continues."""

    path: Path
    judge: str

    def read(self) -> dict[tuple[str, bool], Judgement]:
        """This judge's judgements in the file, without those of another judge or wording and without broken lines."""
        if not self.path.exists():
            return {}
        found = {}
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                if (row["judge"], row["version"]) == (self.judge, VERSION):
                    judgement = Judgement({name: int(row["choices"][name]) for name in NAMES}, str(row["reason"]))
                    found[str(row["pair"]), bool(row["swapped"])] = judgement
            except (ValueError, LookupError, TypeError):
                continue  # cut short by a crash: asked again
        return found

    def add(self, pair: Pair, swapped: bool, judgement: Judgement) -> None:
        """Append one judgement and write it to the disk before the next question is asked."""
        row = {"pair": pair.identity, "swapped": swapped, "judge": self.judge, "version": VERSION}
        line = json.dumps({**row, "choices": dict(judgement.choices), "reason": judgement.reason}, ensure_ascii=False)
        with self.path.open("a+b") as file:
            # A crash may have cut the last line short: the next one starts on its own.
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                line = line if file.read(1) == b"\n" else f"\n{line}"
            file.write(f"{line}\n".encode("utf-8", "surrogatepass"))
            file.flush()
            os.fsync(file.fileno())


def pairs_of(texts: Sequence[Generated], others: Sequence[Generated]) -> list[Pair]:
    """The texts of two files paired row by row. Raises: InputError when numbers or prompts differ."""
    if len(texts) != len(others):
        raise InputError(
            tr(
                "`against`: {n_texts} texts and {n_others} others; give answers to the same prompts, in one order",
                n_texts=len(texts),
                n_others=len(others),
            )
        )
    found = [Pair(a, b) for a, b in zip(texts, others, strict=True)]
    differing = [
        f"row {number}: {pair.a.prompt[:40]!r} and {pair.b.prompt[:40]!r}"
        for number, pair in enumerate(found, 1)
        if pair.a.prompt and pair.b.prompt and pair.a.prompt != pair.b.prompt
    ]
    if differing:
        raise InputError(tr("`against`: answers to other prompts: {problems}", problems=all_problems(differing)))
    return found


def judge_pairs(pairs: Sequence[Pair], ask: Ask, kept: Judgements, on_progress: Advance = ignore) -> dict[str, Any]:
    """The `summary` of all pairs in both orders, and `unreadable`: how many pairs the judge gave no judgement on.

    A judge that does not answer in the requested form is asked again, up to `ANSWERS_PER_QUESTION` answers in all.
    `on_progress` is called with the number of judgements so far.
    """
    known = kept.read()
    for number, (pair, swapped) in enumerate(((pair, swapped) for pair in pairs for swapped in (False, True)), 1):
        if (pair.identity, swapped) not in known:
            judgement = _judgement(question(pair, swapped), ask)
            if judgement is not None:
                kept.add(pair, swapped, judgement)
                known[pair.identity, swapped] = judgement
        on_progress(number)
    found = [(known.get((pair.identity, False)), known.get((pair.identity, True))) for pair in pairs]
    judged = [(plain, swapped) for plain, swapped in found if plain is not None and swapped is not None]
    return {**summary(judged), "unreadable": len(pairs) - len(judged)}


def preferring(ask: Ask) -> Callable[[str, str, str], bool | None]:
    """(prompt, an answer, another) -> whether the judge prefers the first, all in all; None where it prefers neither.

    Both orders are asked: a choice that does not hold in the other order is none.
    """

    def prefers(prompt: str, first: str, second: str) -> bool | None:
        pair = Pair(Generated(first, prompt), Generated(second, prompt))
        plain, swapped = (_judgement(question(pair, order), ask) for order in (False, True))
        if plain is None or swapped is None:
            return None
        better = merged(plain, swapped)[OVERALL]
        return None if better == TIE else better == A

    return prefers


def _judgement(messages: list[dict[str, str]], ask: Ask) -> Judgement | None:
    for _ in range(ANSWERS_PER_QUESTION):
        answer = ask(messages)
        try:
            return read_judgement(answer)
        except ValueError as error:
            complaint = f"답을 읽을 수 없습니다 ({error}). JSON 객체 하나로만 다시 답하십시오."
            messages = [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": complaint}]
    return None
