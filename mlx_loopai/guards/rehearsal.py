"""`replay`: general rows that a phase mixes in, as they are or answered once by the base itself."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.nn as nn
import numpy as np

from mlx_loopai.config import ReplayOptions
from mlx_loopai.data.records import Message, Record
from mlx_loopai.data.samples import texts
from mlx_loopai.data.tokens import REHEARSAL, ChatEncoder, TokenRow
from mlx_loopai.errors import InputError
from mlx_loopai.files import write_whole
from mlx_loopai.guards.guard import Guard, Material, Penalty
from mlx_loopai.language import tr
from mlx_loopai.memory.guard_terms import GuardTerms
from mlx_loopai.models.pass_sizes import ANSWERED_ROWS
from mlx_loopai.progress import Advance, ignore
from mlx_loopai.text.measures import is_looping

if TYPE_CHECKING:
    from mlx_loopai.models.load import LoadedModel

# Rows that the monitor reads: they are not rehearsed. Four for each of the nine abilities of the embedded prompts; of
# shorter rows up to `MOST_WATCHED`, which are as many tokens as `WATCHED_ROWS` rows of the usual length.
WATCHED_ROWS, MOST_WATCHED, WATCHED_TOKENS = 36, 72, 2304
# Of so many rows one is watched: of each kind those of which the base is surer.
CANDIDATES = 2
# How the origin of a row begins that is watched and never rehearsed.
WATCHED_ALONE = "watched:"
# Prompts in scripts that tokenizers know take 0.2 to 1.0 tokens a character, others about 2 (three tokenizers).
MOST_TOKENS_A_CHARACTER = 1.25


@dataclass(frozen=True)
class Rehearsal:
    """Rows in the base's own words. `dropped`: answers left out because they loop or are empty."""

    rows: tuple[TokenRow, ...]
    dropped: int

    def save(self, path: Path) -> None:
        lines = [
            json.dumps(
                {
                    "ids": row.ids.tolist(),
                    "supervised": row.supervised.astype(int).tolist(),
                    "origin": row.origin,
                    "ability": row.ability,
                }
            )
            for row in self.rows
        ]
        write_whole(path, "\n".join([json.dumps({"dropped": self.dropped}), *lines]) + "\n")

    @staticmethod
    def load(path: Path) -> Rehearsal:
        header, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        rows = [_row(line["ids"], line["supervised"], line["origin"], line.get("ability", "")) for line in lines]
        return Rehearsal(tuple(rows), header["dropped"])


def general_prompts(
    records: Sequence[Record], options: ReplayOptions, seed: int, tokenizer: Any | None = None
) -> list[str]:
    """At most `replay.max_prompts` prompts, seeded: the first user turns of `records`, or the embedded prompt set.

    The embedded set gives equally many of every kind, as long as a kind has any left; with a `tokenizer` it leaves out
    the prompts that this one spells out (`is_spelled_out`), unless these are all. `replay.source: free` gives empty
    prompts: the base then says what it likes (arXiv 2505.13811, there from the first token of a text, here from an
    empty chat turn).

    Raises: InputError when `records` hold no user turn.
    """
    if options.source == "free":
        return [""] * options.max_prompts
    if not records:
        embedded = _evenly(texts.prompts_by_kind(), seed)
        known = (prompt for prompt in embedded if tokenizer is None or not is_spelled_out(prompt, tokenizer))
        return list(islice(known, options.max_prompts)) or embedded[: options.max_prompts]
    prompts = sorted(
        {message.content for record in records for message in record.messages[:2] if message.role == "user"}
    )
    if not prompts:
        raise InputError(
            tr("general: none of its rows holds a user turn to answer; give chat or prompt/completion rows")
        )
    random.Random(seed).shuffle(prompts)
    return prompts[: options.max_prompts]


def is_spelled_out(prompt: str, tokenizer: Any) -> bool:
    """Whether `tokenizer` has no words for a prompt: it takes more tokens than characters, most of them single bytes.

    A model with such a tokenizer cannot answer in that script, so that it has nothing to lose there, and these prompts
    would take most of a rehearsal's tokens: 45 for a Korean question in SmolLM2's tokens, 15 in Qwen2.5's.
    """
    return len(tokenizer.encode(prompt, add_special_tokens=False)) > MOST_TOKENS_A_CHARACTER * len(prompt)


def _evenly(kinds: Mapping[str, Sequence[str]], seed: int) -> list[str]:
    """All prompts, one of each kind after the other, each kind in a seeded order."""
    shuffled = [random.Random(f"{seed} {kind}").sample(kinds[kind], len(kinds[kind])) for kind in sorted(kinds)]
    return [prompt for turn in zip_longest(*shuffled) for prompt in turn if prompt is not None]


@dataclass(frozen=True)
class Answering:
    """How the base answers prompts: with at most `answer_tokens` tokens each, `rows` prompts at a time."""

    answer_tokens: int
    temperature: float = 0.0
    seed: int = 0
    rows: int = ANSWERED_ROWS


def self_rehearsal(
    loaded: LoadedModel,
    encoder: ChatEncoder,
    prompts: Sequence[str],
    answering: Answering,
    on_progress: Advance = ignore,
) -> Rehearsal:
    """The base's own answers to `prompts` as training rows; call it with the adapter switched off.

    An answer that the token limit cut short is kept without an end-of-turn, so that no row teaches to stop early.
    Source: self-generated rehearsal as in arXiv 2403.01244 and 2602.20162; measured in docs/experiments.md.
    """
    from mlx_loopai.generation.engine import SamplingOptions, generate_batch  # slow to import, and a plan needs none

    requests = [Message("user", prompt) for prompt in prompts]
    prompt_ids = [encoder.prompt_ids([request]) for request in requests]
    sampling = SamplingOptions(
        temperature=answering.temperature, max_tokens=answering.answer_tokens, seed=answering.seed
    )
    answers = generate_batch(loaded, prompt_ids, sampling, on_progress, answering.rows)
    rows, abilities, watched_alone = [], texts.abilities(), texts.watched_alone()
    for number, (request, ids, answer) in enumerate(zip(requests, prompt_ids, answers, strict=True)):
        ability = abilities.get(request.content, "")
        origin = f"{WATCHED_ALONE if request.content in watched_alone else 'rehearsal:'}{number + 1}"
        if not answer.text.strip() or is_looping(answer.text):
            continue
        if answer.finished:
            messages = (request, Message("assistant", answer.text))
            record = Record(messages=messages, kind="chat", category=REHEARSAL, origin=origin)
            rows.append(replace(encoder.encode(record), ability=ability))
        else:
            rows.append(_open_ended(ids, list(answer.tokens), origin, ability))
    return Rehearsal(tuple(rows), len(prompts) - len(rows))


def _open_ended(prompt_ids: list[int], answer_ids: list[int], origin: str, ability: str) -> TokenRow:
    return _row(prompt_ids + answer_ids, [False] * len(prompt_ids) + [True] * len(answer_ids), origin, ability)


def _row(ids: Sequence[int], supervised: Sequence[bool], origin: str, ability: str) -> TokenRow:
    return TokenRow(
        ids=np.array(ids, np.int32),
        supervised=np.array(supervised, np.bool_),
        origin=origin,
        category=REHEARSAL,
        ability=ability,
    )


@dataclass(frozen=True)
class SelfRehearsal(Guard[Rehearsal]):
    """The base's answers to `prompts`, made once."""

    prompts: Sequence[str]
    encoder: ChatEncoder
    answering: Answering

    @staticmethod
    def terms(options: ReplayOptions) -> GuardTerms:
        return GuardTerms(diverges_on_answers=options.objective != "answers")

    def made_by(self, material: Material) -> list[Any]:
        prompt_ids = [self.encoder.prompt_ids([Message("user", prompt)]) for prompt in self.prompts]
        abilities = [texts.abilities().get(prompt, "") for prompt in self.prompts]
        return [self.answering.answer_tokens, self.answering.temperature, self.answering.seed, prompt_ids, abilities]

    def measure(self, material: Material) -> Rehearsal:
        listener, count = material.listener, len(self.prompts)
        listener.stage(tr("rehearsal"), count)
        found = self_rehearsal(material.base, self.encoder, self.prompts, self.answering, listener.advance)
        if found.dropped:
            listener.notice(
                tr(
                    "rehearsal: {dropped} of {n_prompts} answers looped or were empty and were left out",
                    dropped=found.dropped,
                    n_prompts=count,
                )
            )
        return found

    def penalty(self, state: Rehearsal) -> Penalty | None:
        return None

    def place(self, model: nn.Module, state: Rehearsal) -> None:
        pass

    def save(self, state: Rehearsal, path: Path) -> None:
        state.save(path)

    def load(self, path: Path) -> Rehearsal:
        return Rehearsal.load(path)


def rehearsal_divergence(options: ReplayOptions) -> float:
    """The factor of KL(base || adapted) at the answers of rehearsal rows."""
    return options.kl_strength if options.objective in ("kl", "both") else 0.0
