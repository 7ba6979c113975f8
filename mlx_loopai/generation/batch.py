"""Writes many answers together by mlx-lm's continuous batching: rows join, leave and have options of their own."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.generate import BatchGenerator, GenerationBatch, PromptProcessingBatch
from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_loopai.generation.decoding import Decoding, choose_together
from mlx_loopai.generation.engine import REPLACEMENT, Piece, check_prompts, stream
from mlx_loopai.generation.request import Request
from mlx_loopai.models.answering_pass import Opening, answering, opening_of_rows
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.models.pass_sizes import ANSWERED_ROWS, PREFILL_BESIDE_TOKENS, PREFILL_ROWS, PREFILL_TOKENS
from mlx_loopai.models.prompt_cache import Prefix, shared_tokens
from mlx_loopai.models.vision.reading import ShiftedCache, read_prompt
from mlx_loopai.models.vision.rotary import places_of

__all__ = ["Batch", "Request", "RowPiece"]


@dataclass(frozen=True)
class Chance:
    """The log-probability of a chosen token, and the likeliest tokens at its place with theirs, likeliest first.

    They are taken after penalties and scripts, but before the temperature and before unlikely tokens are cut off.
    """

    token: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class RowPiece:
    """What one token adds to the answer `key`; `last` when nothing follows. chance: where its request asks for it."""

    key: int
    piece: Piece
    last: bool
    chance: Chance | None = None


# Called when an answer has ended, with its request, the tokens that were read for it, and the cache that holds them.
OnRead = Callable[[Request, list[int], list[Any]], None]


@dataclass
class _Row:
    request: Request
    detokenizer: Any
    begun: bool = False  # a token was chosen, so the whole prompt has been read


@dataclass
class _Alone:
    """An answer that is generated outside the batch, with a draft model.

    held: its next piece, kept back until it is known whether it is the last one. cache: the answer's own. read: the
    tokens of the prompt, and those handed on.
    """

    request: Request
    pieces: Generator[Piece, None, None]
    read: list[int]
    cache: list[Any]
    held: Piece | None = None


class _Choosing(GenerationBatch):
    """mlx-lm's rows that write, with one choice of tokens for all of them.

    mlx-lm processes the logits of each row, takes all to log-probabilities, and draws each row's token, one after the
    other. Here rows that share (see `choose_together`) are chosen in a few operations, and log-probabilities are
    computed only where a request asks for them. A row's first token is chosen by mlx-lm, before it joins.
    """

    _next_tokens: mx.array
    _next_logprobs: list[mx.array | None]
    # The rows whose opening was told last, and that opening: looking for it takes a while, and rows seldom change.
    _told: tuple[tuple[int, ...], Opening | None] = ((), None)

    def _step(self) -> tuple[list[int], list[mx.array | None]]:
        inputs, logprobs = self._next_tokens, self._next_logprobs
        if all(n + 1 >= most for n, most in zip(self._num_tokens, self.max_tokens, strict=True)):
            # All rows end with these tokens, which therefore need not be read.
            return inputs.tolist(), logprobs
        with answering(self.model, self._opening()):
            logits = self.model(inputs[:, None], cache=self.prompt_cache)[:, -1]
        self._next_tokens, self._next_logprobs, contexts = self._choice(inputs, logits)
        mx.async_eval(self._next_tokens, [one for one in self._next_logprobs if one is not None], contexts)
        tokens: list[int] = inputs.tolist()
        for known, token in zip(self.tokens, tokens, strict=True):
            known.append(token)
        return tokens, logprobs

    def _opening(self) -> Opening | None:
        rows = tuple(self.uids)
        if rows != self._told[0]:
            self._told = rows, _opening_of(self)
        return self._told[1]

    def _choice(self, inputs: mx.array, logits: mx.array) -> tuple[mx.array, list[mx.array | None], list[mx.array]]:
        """The next tokens (B), the log-probabilities (V) of rows that ask for them, and what must be computed too."""
        rows: list[Decoding] = self.samplers
        chosen: list[Any] = [None] * len(rows)
        processed: list[Any] = [None] * len(rows)
        together = [place for place, row in enumerate(rows) if row.shares]
        if together:
            places = mx.array(together)
            tokens, changed = choose_together(
                [rows[place] for place in together],
                [self.tokens[place] for place in together],
                inputs[places],
                logits if len(together) == len(rows) else logits[places],
            )
            if len(together) == len(rows) and not any(row.request.likeliest is not None for row in rows):
                return tokens, [None] * len(rows), []
            for index, place in enumerate(together):
                chosen[place], processed[place] = tokens[index : index + 1], changed[index : index + 1]
        contexts = []
        for place, row in enumerate(rows):
            if not row.shares:
                contexts.append(self._token_context[place].update_and_fetch(inputs[place : place + 1]))
                processed[place] = row.process(contexts[-1], logits[place : place + 1])
                chosen[place] = row(processed[place])
        logprobs = [
            None if row.request.likeliest is None else one[0] - mx.logsumexp(one)
            for row, one in zip(rows, processed, strict=True)
        ]
        return mx.concatenate(chosen), logprobs, contexts


class _Reading(PromptProcessingBatch):
    """mlx-lm's prompts that are read together."""

    def prompt(self, tokens: list[list[int]]) -> None:
        with answering(self.model, _opening_of(self)):
            super().prompt(tokens)


def _opening_of(batch: _Choosing | _Reading) -> Opening | None:
    """What the rows of `batch` have read in common. All pictures have the same tokens, but not the same keys."""
    rows: list[Decoding] = batch.samplers
    if len(rows) < 2 or any(row.request.pictures is not None for row in rows):
        return None
    return opening_of_rows(batch.prompt_cache, len(shared_tokens(batch.tokens)))


class Batch:
    """Answers in the making. Waiting ones take the places of those that ended; use it from one thread.

    Up to rounding of the logits, a greedy answer equals that of `generate_stream`, and so does a sampled one of row 0.
    draft: proposes the tokens of an answer that is alone when it joins; see `stream`.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        batch_rows: int = ANSWERED_ROWS,
        on_read: OnRead | None = None,
        draft: LoadedModel | None = None,
    ) -> None:
        self._loaded, self._on_read, self._draft = loaded, on_read, draft
        self._prefill_rows = prefill_rows = min(PREFILL_ROWS, batch_rows)
        self._generator = BatchGenerator(
            loaded.model,
            stop_tokens=[[token] for token in loaded.tokenizer.eos_token_ids],
            completion_batch_size=batch_rows,
            prefill_batch_size=prefill_rows,
            prefill_step_size=PREFILL_TOKENS // prefill_rows,
        )
        self._generator._generation_batch = _Choosing.empty(loaded.model, self._generator.sampler)
        self._generator._prompt_batch = _Reading.empty(
            loaded.model, self._generator.sampler, self._generator.prefill_step_size
        )
        self._rows: dict[int, _Row] = {}
        self._alone: dict[int, _Alone] = {}
        self._n_alone = 0

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """How many answers wait or are being written."""
        return len(self._rows) + len(self._alone)

    def close(self) -> None:
        """Give the wired memory back."""
        for row in self._alone.values():
            row.pieces.close()
        self._generator.close()

    def add(self, request: Request) -> int:
        """Let an answer join at the next step. Returns: its key. Raises: InputError for an empty prompt."""
        prompt, prefix, shift = list(request.prompt), request.prefix, 0
        check_prompts([prompt])
        if request.pictures is not None:
            shift = request.pictures.shift
            cache = make_prompt_cache(self._loaded.model)
            read_prompt(self._loaded.model, cache, prompt[:-1], request.pictures)
            prefix = Prefix(tuple(prompt[:-1]), cache)
        elif self._draft is not None and not len(self) and _may_be_drafted(request):
            cache = prefix.own_cache() if prefix else make_prompt_cache(self._loaded.model)
            return self._add_alone(request, self._draft, cache)
        n_read = len(prefix.tokens) if prefix else 0
        read = prefix.cache if prefix else None
        if places_of(self._loaded.model) is not None:
            read = [ShiftedCache(layer, shift) for layer in read or make_prompt_cache(self._loaded.model)]
        # The generator copies the prefix when it reads the rest, and needs it no longer.
        request = replace(request, prefix=None)
        decoding = Decoding(request, self._loaded.n_tokens)
        (key,) = self._generator.insert(
            [prompt[n_read:]],
            max_tokens=[request.options.max_tokens],
            # Caches are merged into the batch's, which copies them: rows may share one.
            caches=None if read is None else [read],
            all_tokens=[prompt[:n_read]],
            samplers=[decoding],
            logits_processors=[[decoding.process]],
        )
        self._rows[key] = _Row(request, self._loaded.tokenizer.detokenizer)
        return int(key)

    def remove(self, key: int) -> None:
        """Drop an answer; it may have ended already."""
        if key in self._alone:
            self._end_alone(key)
        row = self._rows.pop(key, None)
        if row is None:
            return
        # All pictures have the same tokens, so the cache of one picture would be taken for another's.
        keeps = row.begun and self._on_read is not None and row.request.pictures is None
        read = self._generator.remove([key], return_prompt_caches=keeps)
        if self._on_read is not None and key in read:
            cache, tokens = read[key]
            self._on_read(row.request, tokens, cache)

    def step(self) -> list[RowPiece]:
        """The next token of each answer that is being written: none while prompts are read first."""
        found = [piece for key in list(self._alone)[:1] for piece in self._step_alone(key)]
        if not self._rows:
            return found
        self._generator.prefill_step_size = self._tokens_to_read()
        _, responses = self._generator.next()
        return found + [self._piece(response) for response in responses]

    def _tokens_to_read(self) -> int:
        """How many tokens of each prompt the next step may read."""
        reading = sum(not row.begun for row in self._rows.values())
        if reading == len(self._rows):
            return PREFILL_TOKENS // self._prefill_rows
        return PREFILL_BESIDE_TOKENS // max(1, min(reading, self._prefill_rows))

    def _add_alone(self, request: Request, draft: LoadedModel, cache: list[Any]) -> int:
        self._n_alone += 1
        key = -self._n_alone  # mlx-lm counts from 0 on
        pieces = stream(self._loaded, request, draft, cache)
        self._alone[key] = _Alone(request=request, pieces=pieces, read=list(request.prompt), cache=cache)
        return key

    def _end_alone(self, key: int) -> None:
        row = self._alone.pop(key)
        row.pieces.close()
        if self._on_read is None:
            return
        n_read = int(row.cache[0].offset)
        trim_prompt_cache(row.cache, max(0, n_read - len(row.read)))
        self._on_read(row.request, row.read[:n_read], row.cache)

    def _step_alone(self, key: int) -> list[RowPiece]:
        row = self._alone[key]
        piece, row.held = row.held, next(row.pieces, None)
        if piece is not None and piece.token is not None:
            row.read.append(piece.token)
        if row.held is None:
            self._end_alone(key)
        return [] if piece is None else [RowPiece(key, piece, row.held is None)]

    def _piece(self, response: Any) -> RowPiece:
        key, last = response.uid, response.finish_reason is not None
        ended = response.finish_reason == "stop"
        row = self._rows[key]
        detokenizer = row.detokenizer
        if not ended:
            detokenizer.add_token(response.token)
        text = detokenizer.last_segment
        if row.request.goes_on and not row.begun and not ended:
            text = _lost_space(self._loaded.tokenizer, row.request.prompt[-1], response.token) + text
        row.begun = True
        if last:
            detokenizer.finalize()
            text = (text + detokenizer.last_segment).rstrip(REPLACEMENT)
            del self._rows[key]
            if self._on_read is not None and row.request.pictures is None:
                self._on_read(row.request, response.all_tokens, response.prompt_cache)
        asked = row.request.likeliest
        chance = None if ended or asked is None else _chance(response.logprobs, response.token, asked)
        return RowPiece(key, Piece(text, None if ended else response.token, ended), last, chance)


def _may_be_drafted(request: Request) -> bool:
    """Whether a draft model may write it: not with log-probabilities, a grammar, or a space that goes on."""
    return request.likeliest is None and request.grammar is None and not request.goes_on


def _chance(logprobs: mx.array, token: int, n_likeliest: int) -> Chance:
    """The chance of `token` by the log-probabilities (V,) at its place; tokens that are ruled out are left out."""
    found = np.array(logprobs.astype(mx.float32))
    likeliest = np.argpartition(-found, min(n_likeliest, len(found) - 1))[:n_likeliest]
    ordered = likeliest[np.argsort(-found[likeliest], kind="stable")]
    told = tuple((int(one), float(found[one])) for one in ordered if np.isfinite(found[one]))
    return Chance(token, float(found[token]), told)


def _lost_space(tokenizer: TokenizerWrapper, before: int, token: int) -> str:
    """The space before `token` that a detokenizer leaves out because a text begins there; else ""."""
    detokenizer = tokenizer.detokenizer
    detokenizer.add_token(token)
    detokenizer.finalize()
    added: str = tokenizer.decode([before, token])[len(tokenizer.decode([before])) :]
    return " " if added.startswith(" ") and not detokenizer.text.startswith(" ") else ""
