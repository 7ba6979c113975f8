"""Rehearsal: general rows that a phase mixes in, as they are or answered once by the base itself."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_loopai.config import ReplayOptions
from mlx_loopai.data.records import Message, Record
from mlx_loopai.data.samples import texts
from mlx_loopai.data.tokens import REHEARSAL, ChatEncoder, TokenRow
from mlx_loopai.errors import InputError
from mlx_loopai.files import write_whole
from mlx_loopai.generation.engine import BATCH_ROWS, SamplingOptions, generate_batch
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.text.measures import is_looping


@dataclass(frozen=True)
class Rehearsal:
    """Rows in the base's own words. `dropped`: answers left out because they loop or are empty."""

    rows: tuple[TokenRow, ...]
    dropped: int

    def save(self, path: Path) -> None:
        lines = [
            json.dumps(
                {"ids": row.ids.tolist(), "supervised": row.supervised.astype(int).tolist(), "origin": row.origin}
            )
            for row in self.rows
        ]
        write_whole(path, "\n".join([json.dumps({"dropped": self.dropped}), *lines]) + "\n")

    @staticmethod
    def load(path: Path) -> Rehearsal:
        header, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        rows = [
            TokenRow(np.array(line["ids"], np.int32), np.array(line["supervised"], np.bool_), line["origin"], REHEARSAL)
            for line in lines
        ]
        return Rehearsal(tuple(rows), header["dropped"])


def general_prompts(records: Sequence[Record], options: ReplayOptions, seed: int) -> list[str]:
    """At most `replay.max_prompts` prompts, seeded: the first user turns of `records`, or the embedded prompt set.

    For `replay.source: free` that many empty ones: what the base says to no prompt at all (arXiv 2505.13811, there from
    the first token of a text, here from an empty chat turn).
    """
    if options.source == "free":
        return [""] * options.max_prompts
    found = [message.content for record in records for message in record.messages[:2] if message.role == "user"]
    prompts = sorted(set(found)) if records else texts.prompts()
    if not prompts:
        raise InputError("general: none of its rows holds a user turn to answer; give chat or prompt/completion rows")
    random.Random(seed).shuffle(prompts)
    return prompts[: options.max_prompts]


def self_rehearsal(
    loaded: LoadedModel,
    encoder: ChatEncoder,
    prompts: Sequence[str],
    options: ReplayOptions,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
    batch_rows: int = BATCH_ROWS,
) -> Rehearsal:
    """The base's own answers to `prompts` as training rows; call it with the adapter switched off.

    An answer that the token limit cut short is kept without an end-of-turn, so that no row teaches to stop early.
    Source: self-generated rehearsal as in arXiv 2403.01244 and 2602.20162; measured in docs/experiments.md.
    """
    requests = [Message("user", prompt) for prompt in prompts]
    prompt_ids = [encoder.prompt_ids([request]) for request in requests]
    sampling = SamplingOptions(temperature=options.temperature, max_tokens=options.answer_tokens, seed=seed)
    answers = generate_batch(loaded, prompt_ids, sampling, on_progress, batch_rows)
    rows = []
    for number, (request, ids, answer) in enumerate(zip(requests, prompt_ids, answers, strict=True)):
        origin = f"rehearsal:{number + 1}"
        if not answer.text.strip() or is_looping(answer.text):
            continue
        if answer.finished:
            record = Record((request, Message("assistant", answer.text)), "chat", REHEARSAL, origin)
            rows.append(encoder.encode(record))
        else:
            rows.append(_open_ended(ids, list(answer.tokens), origin))
    return Rehearsal(tuple(rows), len(prompts) - len(rows))


def _open_ended(prompt_ids: list[int], answer_ids: list[int], origin: str) -> TokenRow:
    supervised = np.repeat([False, True], [len(prompt_ids), len(answer_ids)])
    return TokenRow(np.array(prompt_ids + answer_ids, np.int32), supervised, origin, REHEARSAL)
