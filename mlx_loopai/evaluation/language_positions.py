"""Finds where a model's own answers leave Korean, and scores the tokens that it might have written there.

Source: TLPO (arXiv 2604.26553): the first confused position of an answer, the 16 likeliest tokens there, each continued
greedily by 4. Its abstract and settings are known to us, its code and equations are not. Our own choices: what counts
as confused (`text.korean_only`), 8 tokens of continuation (after 4 an English title may still be a name), control
tokens are no candidates, and a score is 1 or 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_loopai.config import SamplingOptions
from mlx_loopai.data.positions import Begun, Candidate, Position
from mlx_loopai.data.records import Record
from mlx_loopai.evaluation.language_pairs import allowed_words, wants_foreign_words
from mlx_loopai.evaluation.next_tokens import read_to_next
from mlx_loopai.generation.batch import Batch
from mlx_loopai.generation.engine import REPLACEMENT, generate_batch
from mlx_loopai.generation.prompts import Prompt, build_messages
from mlx_loopai.generation.request import Request
from mlx_loopai.generation.session import Session
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.models.prompt_cache import Prefix
from mlx_loopai.progress import Advance, ignore
from mlx_loopai.text.hangul import nfc
from mlx_loopai.text.korean_only import first_foreign_run, holds_foreign_words

CANDIDATES, CONTINUED_TOKENS = 16, 8


@dataclass(frozen=True, eq=False)
class Confusion:
    """The place where an answer leaves Korean. asked: tokens of the prompt; prefix: those of the answer before it.

    allowed: foreign words of the request, in lower case, that the answer may repeat.
    """

    prompt: Prompt
    asked: Sequence[int]
    prefix: tuple[int, ...]
    allowed: frozenset[str]


@dataclass(frozen=True)
class Confusions:
    """Where answers leave Korean, and why others gave no such place: reason -> how many."""

    found: tuple[Confusion, ...]
    dropped: dict[str, int]


@dataclass(frozen=True)
class MadePositions:
    """`positions` that a program made, and why others were dropped: reason -> how many."""

    positions: tuple[Position, ...]
    dropped: dict[str, int]


def find_confusions(
    session: Session, prompts: Sequence[Prompt], answers: int, options: SamplingOptions, on_progress: Advance = ignore
) -> Confusions:
    """The first place where each of `answers` free answers to every prompt leaves Korean; each place once.

    Nothing is held back from these answers. `on_progress` is called with the number of answers written.

    Raises: InputError for a prompt that the chat template refuses.
    """
    dropped: Counter[str] = Counter()
    wanted = [prompt for prompt in prompts if not wants_foreign_words(prompt)]
    asked = [session.prompt_ids(prompt) for prompt in wanted]
    left_out = len(prompts) - len(wanted)
    if left_out:
        dropped["the request names another language, or code"] = left_out
    written = generate_batch(
        session.loaded, asked * answers, options, lambda done, *_: on_progress(left_out * answers + done)
    )
    found: dict[tuple[int, tuple[int, ...]], Confusion] = {}
    for number, answer in enumerate(written):
        place = number % len(wanted)
        prompt, allowed = wanted[place], allowed_words(wanted[place])
        start = first_foreign_run(answer.text, allowed)
        if start is None:
            dropped["the answer has no foreign words that the request does not hold"] += 1
            continue
        prefix = _tokens_before(session.loaded, answer.tokens, start)
        if (place, prefix) in found:
            dropped["another answer leaves Korean at the same place"] += 1
            continue
        found[place, prefix] = Confusion(prompt, asked[place], prefix, allowed)
    return Confusions(tuple(found.values()), dict(dropped))


def score_confusions(session: Session, confusions: Sequence[Confusion], on_progress: Advance = ignore) -> MadePositions:
    """The positions of `confusions`, with the tokens that the model finds likeliest there.

    A candidate scores 1 where the answer with it and with the tokens that the model then prefers is whole characters
    and has no foreign word, else 0. Where all have the same score there is nothing to learn. `on_progress` is called
    with the number done.
    """
    made: list[Position] = []
    dropped: Counter[str] = Counter()
    for done, confusion in enumerate(confusions, start=1):
        begun = _begun(session.loaded, confusion)
        scores = {one.score for one in begun.candidates}
        if len(scores) == 1:
            dropped["no candidate stays Korean" if scores == {0.0} else "every candidate stays Korean"] += 1
        else:
            made.append(Position.after(_asked(session, confusion.prompt), begun))
        on_progress(done)
    return MadePositions(tuple(made), dict(dropped))


def _tokens_before(loaded: LoadedModel, tokens: Sequence[int], start: int) -> tuple[int, ...]:
    """The most first `tokens` whose text is whole and does not reach beyond character `start` of their text."""
    for count in range(len(tokens), 0, -1):
        text = loaded.tokenizer.decode(list(tokens[:count]))
        if len(nfc(text)) <= start and not text.endswith(REPLACEMENT):
            return tuple(tokens[:count])
    return ()


def _begun(loaded: LoadedModel, confusion: Confusion) -> Begun:
    """The position of a confusion, its candidates scored, likeliest first."""
    prefix, tokenizer = list(confusion.prefix), loaded.tokenizer
    read, likely = read_to_next(loaded.model, [*confusion.asked, *prefix])
    likely = likely[: loaded.n_tokens]
    likely[list(_control_tokens(loaded))] = -np.inf
    chosen = np.argsort(-likely, kind="stable")[:CANDIDATES].tolist()
    ahead = _continued(loaded, read, chosen)
    before = tokenizer.decode(prefix)
    candidates = []
    for token, then in zip(chosen, ahead, strict=True):
        text = tokenizer.decode([*prefix, token, *then]).rstrip(REPLACEMENT)
        candidates.append(
            Candidate(
                token=token,
                piece=tokenizer.convert_ids_to_tokens(token),
                text=text[len(before) :],
                score=float(_is_korean(text, confusion.allowed)),
                logprob=round(float(likely[token]), 6),
            )
        )
    return Begun(prefix=before, prefix_tokens=confusion.prefix, candidates=tuple(candidates))


def _is_korean(text: str, allowed: frozenset[str]) -> bool:
    """Whether an answer says something, without broken characters and without foreign words that are not `allowed`."""
    return bool(text.strip()) and REPLACEMENT not in text and not holds_foreign_words(text, allowed)


def _continued(loaded: LoadedModel, read: Prefix, candidates: Sequence[int]) -> list[list[int]]:
    """The likeliest tokens after each of `candidates`, which follow what was `read`; fewer where the answer ends."""
    greedy = SamplingOptions(temperature=0.0, max_tokens=CONTINUED_TOKENS)
    with Batch(loaded, len(candidates)) as batch:
        requests = [Request([*read.tokens, token], greedy, prefix=read) for token in candidates]
        found: dict[int, list[int]] = {batch.add(request): [] for request in requests}
        while len(batch):
            for one in batch.step():
                if one.piece.token is not None:
                    found[one.key].append(one.piece.token)
    return list(found.values())


def _control_tokens(loaded: LoadedModel) -> set[int]:
    tokenizer = loaded.tokenizer
    return {token for token in (*tokenizer.all_special_ids, *tokenizer.eos_token_ids) if token < loaded.n_tokens}


def _asked(session: Session, prompt: Prompt) -> Record:
    """The conversation as the model read it, which ends with the request."""
    messages = tuple(build_messages(prompt.messages, system_prompt=session.system_prompt))
    return Record(messages, kind="chat", category="domain", origin=prompt.origin, tools=prompt.tools)
