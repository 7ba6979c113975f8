"""Text from token prompts: one prompt as a stream, or many together.

Penalty, truncation and draw are pure functions of the last tokens and one uniform number, computed lazily for a whole
batch. So nothing here waits for a token before the next step has been started.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx_lm.generate import stream_generate, wired_limit
from mlx_lm.models.cache import KVCache, can_trim_prompt_cache, make_prompt_cache
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_loopai.config import SamplingOptions
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.generation.constraint import Constraint, Tally
from mlx_loopai.generation.decoding import Decoding
from mlx_loopai.generation.request import Request
from mlx_loopai.generation.sampling import choose, penalise, penalty_context, uniforms
from mlx_loopai.language import tr
from mlx_loopai.models.load import LoadedModel, load_model
from mlx_loopai.models.lora import adapter_answering
from mlx_loopai.models.micro_batch import opening_of
from mlx_loopai.models.pass_sizes import ANSWERED_ROWS, OPENING_STEP, PREFILL_TOKENS
from mlx_loopai.models.prompt_cache import Prefix, compute_prefix
from mlx_loopai.models.vision.pictures import reading_at
from mlx_loopai.models.vision.reading import read_prompt
from mlx_loopai.progress import Advance, ignore

__all__ = ["Generation", "Piece", "SamplingOptions", "generate_batch", "generate_stream"]

DRAFT_TOKENS = 3
REPLACEMENT = "\ufffd"
# Shapes grow with every step, so the allocator's cache of freed buffers does too.
_STEPS_BETWEEN_CLEARS = 256


@dataclass(frozen=True)
class Piece:
    """What one token adds to a stream: `text` may be empty while a character is incomplete.

    `token` is None for the end-of-text token, whose piece (always the last) has `finished` set.
    """

    text: str
    token: int | None
    finished: bool


@dataclass(frozen=True)
class Generation:
    """One answer. `finished`: the model ended it itself; otherwise `max_tokens` cut it.

    ending: the token that ended it, where it is known; answers that differ in it alone are equal.
    """

    text: str
    tokens: tuple[int, ...]  # without the end-of-text token
    finished: bool
    prompt_tokens: int
    ending: tuple[int, ...] = field(default=(), compare=False)


def generate_stream(
    loaded: LoadedModel,
    prompt_ids: Sequence[int],
    options: SamplingOptions,
    constraint: Constraint | None = None,
    tally: Tally | None = None,
) -> Iterator[Piece]:
    """The answer to one prompt, piece by piece; the same tokens as row 0 of `generate_batch`.

    `tally` counts how often `constraint` stepped in. Raises: InputError for an empty prompt.
    """
    return stream(loaded, Request(prompt_ids, options, constraint=constraint, tally=tally))


def stream(
    loaded: LoadedModel, request: Request, draft: LoadedModel | None = None, cache: list[Any] | None = None
) -> Generator[Piece, None, None]:
    """One answer, piece by piece.

    With `draft`, a smaller model of the same vocabulary (`load_draft`), the draft model proposes tokens and the model
    checks several at once: the same text, up to rounding of the logits. The draft model reads a prefix's tokens itself,
    and a tally counts the tokens of both. cache: holds the request's prefix, and is written to; None: a new one.
    Raises: InputError for an empty prompt, or for pictures together with a draft model.
    """
    prompt, pictures = list(request.prompt), request.pictures
    check_prompts([prompt])
    positions = None if pictures is None else pictures.positions
    pieces = _pieces(loaded, request, draft, cache)
    with adapter_answering(loaded.model, request.adapter), contextlib.closing(pieces):
        while True:
            # Only around `next`: while the caller looks at a piece, others may use the model.
            with reading_at(loaded.model, positions):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece


def _pieces(
    loaded: LoadedModel, request: Request, draft: LoadedModel | None, cache: list[Any] | None
) -> Generator[Piece, None, None]:
    prompt, prefix = list(request.prompt), request.prefix
    n_read = len(prefix.tokens) if prefix else 0
    if cache is None:
        cache = prefix.own_cache() if prefix else make_prompt_cache(loaded.model)
    settings: dict[str, Any] = {"prompt_cache": cache}
    if draft is not None:
        if request.pictures is not None:
            raise InputError(tr("`draft_model` with pictures: the smaller model does not see them; leave it out"))
        own = compute_prefix(draft.model, prompt[:n_read]).cache
        settings = {"draft_model": draft.model, "num_draft_tokens": DRAFT_TOKENS, "prompt_cache": [*cache, *own]}
    if request.pictures is not None:
        read_prompt(loaded.model, cache, prompt[:-1], request.pictures)
        n_read = len(prompt) - 1
    # With a draft model mlx-lm passes on the tokens from the prompt's last one.
    decoding = Decoding(request, loaded.n_tokens, n_read if draft is None else len(prompt) - 1)
    responses = stream_generate(
        loaded.model,
        loaded.tokenizer,
        prompt[n_read:],
        max_tokens=request.options.max_tokens,
        sampler=decoding,
        logits_processors=[decoding.process],
        **settings,
    )
    for response in responses:
        last = response.finish_reason is not None
        ended = response.finish_reason == "stop"
        text = response.text.rstrip(REPLACEMENT) if last else response.text
        yield Piece(text, None if ended else response.token, ended)


def load_draft(name: str, loaded: LoadedModel) -> LoadedModel:
    """The model that proposes tokens for `loaded`.

    Raises: InputError when the vocabularies differ, or a cache cannot take back tokens.
    """
    draft = load_model(name)
    if draft.tokenizer.get_vocab() != loaded.tokenizer.get_vocab():
        sizes = tr("{of_draft} and {of_model} tokens", of_draft=draft.n_tokens, of_model=loaded.n_tokens)
        raise InputError(
            tr(
                "`draft_model` {name}: its vocabulary is not the model's ({sizes}); give a smaller one of its family",
                name=name,
                sizes=sizes,
            )
        )
    for one in (draft, loaded):
        if not can_trim_prompt_cache(make_prompt_cache(one.model)):
            raise InputError(
                tr(
                    "`draft_model` {name}: {path}: its cache cannot go back, so nothing can be proposed",
                    name=name,
                    path=one.path,
                )
            )
    return draft


def generate_batch(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    options: SamplingOptions,
    on_progress: Advance = ignore,
    batch_rows: int = ANSWERED_ROWS,
) -> list[Generation]:
    """The answers to many prompts, in their order. `on_progress` is called with the number that have ended.

    Up to `batch_rows` prompts advance together, and waiting ones take the places of those that ended. Row i draws
    from its own stream (seed, i), so that its sample does not depend on its neighbours, up to rounding of the logits.
    This is for measuring a model as it is; text for a reader goes through `answers.write_answers`.
    Raises: InputError for an empty prompt.
    """
    # Neighbours in length share little padding.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    found: dict[int, Generation] = {}
    for index, answer in generate_in_turn(
        loaded, prompts, options, order, [options.max_tokens] * len(prompts), batch_rows
    ):
        found[index] = answer
        on_progress(len(found))
    return [found[index] for index in range(len(prompts))]


def generate_in_turn(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    options: SamplingOptions,
    order: Sequence[int],
    most_tokens: Sequence[int],
    batch_rows: int = ANSWERED_ROWS,
) -> Generator[tuple[int, Generation], None, None]:
    """(index of its prompt, answer) as the answers of `generate_batch` end; prompts begin in the given `order`.

    most_tokens: the longest that each answer may get, in place of `options.max_tokens`. Raises: InputError for an empty
    prompt.
    """
    check_prompts(prompts)
    waiting = deque(
        _Row(index, list(prompts[index]), uniforms(options, index, most_tokens[index]), most_tokens[index])
        for index in order
    )
    batch = _Batch(loaded, options)
    with wired_limit(loaded.model):
        while waiting or batch.rows:
            if waiting and len(batch.rows) <= batch_rows // 2:
                room = min(len(waiting), max(1, batch_rows - len(batch.rows)))
                batch.admit([waiting.popleft() for _ in range(room)])
            for row in batch.step():
                answer = Generation(
                    text=_text(loaded.tokenizer, row.tokens),
                    tokens=tuple(row.tokens),
                    finished=row.finished,
                    prompt_tokens=len(row.prompt),
                    ending=row.ending,
                )
                yield row.index, answer


@dataclass(eq=False)
class _Row:
    index: int
    prompt: list[int]
    uniforms: npt.NDArray[np.float32]
    most_tokens: int
    tokens: list[int] = field(default_factory=list)
    drawn: int = 0
    ending: tuple[int, ...] = ()
    finished: bool = False
    done: bool = False

    def draw(self) -> float:
        """The row's next uniform number; rows that are done still pass through the model until they are dropped."""
        self.drawn += 1
        return float(self.uniforms[min(self.drawn, len(self.uniforms)) - 1])

    def take(self, token: int, eos: set[int]) -> None:
        if token in eos:
            self.ending = (token,)
            self.finished = self.done = True
            return
        self.tokens.append(token)
        self.done = len(self.tokens) == self.most_tokens


class _Batch:
    """Rows that advance together: their caches, the tokens chosen but not yet read, and the last ones before them."""

    def __init__(self, loaded: LoadedModel, options: SamplingOptions) -> None:
        self._model, self._eos, self._options = loaded.model, loaded.tokenizer.eos_token_ids, options
        self._n_tokens = loaded.n_tokens
        self.rows: list[_Row] = []
        self._cache: list[Any] = []
        self._chosen = mx.array([], dtype=mx.uint32)  # [B]
        self._recent: mx.array | None = None  # [B, PENALTY_CONTEXT], where there is a penalty
        self._steps = 0

    def admit(self, rows: list[_Row]) -> None:
        """Read the prompts of `rows` and let them join."""
        cache = _prefill(self._model, [row.prompt[:-1] for row in rows])
        recent = None
        if self._options.repetition_penalty != 1:
            recent = penalty_context([row.prompt[:-1] or row.prompt for row in rows])
        last = mx.array([row.prompt[-1] for row in rows], dtype=mx.uint32)
        chosen, recent = self._advance(rows, last, cache, recent)
        if not self.rows:
            self.rows, self._cache, self._chosen, self._recent = rows, cache, chosen, recent
            return
        self.rows = self.rows + rows
        for own, new in zip(self._cache, cache, strict=True):
            own.extend(new)
        self._chosen = mx.concatenate([self._chosen, chosen])
        if self._recent is not None and recent is not None:
            self._recent = mx.concatenate([self._recent, recent])

    def step(self) -> list[_Row]:
        """Give each row its next token and set the one after it to work. Returns: the rows that ended."""
        chosen = self._chosen
        if any(not row.done and len(row.tokens) + 1 < row.most_tokens for row in self.rows):
            self._chosen, self._recent = self._advance(self.rows, chosen, self._cache, self._recent)
        ended: list[_Row] = []
        for row, token in zip(self.rows, chosen.tolist(), strict=True):
            if not row.done:
                row.take(token, self._eos)
                if row.done:
                    ended.append(row)
        self._drop_done()
        self._steps += 1
        if self._steps % _STEPS_BETWEEN_CLEARS == 0:
            mx.clear_cache()
        return ended

    def _advance(
        self, rows: list[_Row], inputs: mx.array, cache: list[Any], recent: mx.array | None
    ) -> tuple[mx.array, mx.array | None]:
        """Read `inputs` (B) and choose the tokens after them. Returns: these, and the last tokens with `inputs`."""
        logits = self._model(inputs[:, None], cache=cache)[:, -1, : self._n_tokens]
        if recent is not None:
            recent = mx.concatenate([recent[:, 1:], inputs[:, None]], axis=1)
            logits = penalise(logits, recent, self._options.repetition_penalty)
        chosen = choose(logits, self._options, lambda: [row.draw() for row in rows])
        mx.async_eval(chosen)
        return chosen, recent

    def _drop_done(self) -> None:
        """Drop rows that are done, unless they are few: dropping copies the caches."""
        keep = [place for place, row in enumerate(self.rows) if not row.done]
        if not keep:
            self.rows, self._cache, self._recent = [], [], None
        elif len(keep) <= 0.75 * len(self.rows):
            self.rows = [self.rows[place] for place in keep]
            for layer in self._cache:
                layer.filter(keep)
            self._chosen = self._chosen[mx.array(keep)]
            self._recent = None if self._recent is None else self._recent[mx.array(keep)]


def _prefill(model: nn.Module, prompts: list[list[int]]) -> list[Any]:
    """Each layer's cache of `prompts`, which may be of different lengths and empty.

    The prompts are padded on the right, where a causal mask hides the padding. Then the cache moves it to the left and
    masks it. Equal prompts are read once.
    """
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    if len(places) < len(prompts):
        cache = _prefill(model, [list(prompt) for prompt in places])
        for layer in cache:
            layer.filter([places[tuple(prompt)] for prompt in prompts])
        return cache
    lengths = [len(prompt) for prompt in prompts]
    width = max(lengths)
    padding = [width - length for length in lengths]
    ids = np.zeros((len(prompts), width), dtype=np.int32)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = prompt
    opening = _opening(model, ids, min(lengths))
    layers = zip(*(opening.cache if opening else make_prompt_cache(model) for _ in prompts), strict=True)
    # The caches of the batch are copies.
    cache = [layer[0].merge(list(layer)) for layer in layers]
    if opening:
        ids, width = ids[:, len(opening.tokens) :], width - len(opening.tokens)
        lengths = [length - len(opening.tokens) for length in lengths]
    if any(padding):
        for layer in cache:
            layer.prepare(lengths=lengths, right_padding=padding)
    columns = max(16, PREFILL_TOKENS // len(prompts))
    for start in range(0, width, columns):
        # Only the caches are evaluated: the logits of a prompt (B x T x V) are never made.
        model(mx.array(ids[:, start : start + columns]), cache=cache)
        mx.eval([layer.state for layer in cache])
    if any(padding):
        for layer in cache:
            layer.finalize()
    return cache


def _opening(model: nn.Module, ids: npt.NDArray[np.int32], shortest: int) -> Prefix | None:
    """What all prompts `ids` (B, T) begin with, read once, where that is worth it and the caches can be copied."""
    tokens = min(opening_of(ids), shortest // OPENING_STEP * OPENING_STEP)
    if not tokens or not all(type(layer) is KVCache for layer in make_prompt_cache(model)):
        return None
    return compute_prefix(model, ids[0, :tokens].tolist())


def _text(tokenizer: TokenizerWrapper, tokens: list[int]) -> str:
    """The tokens' text as the stream would give it, without a character that was cut in the middle."""
    detokenizer = tokenizer.detokenizer
    for token in tokens:
        detokenizer.add_token(token)
    detokenizer.finalize()
    text: str = detokenizer.text
    return text.rstrip(REPLACEMENT)


def check_prompts(prompts: Sequence[Sequence[int]]) -> None:
    empty = [index for index, ids in enumerate(prompts) if not len(ids)]
    if empty:
        raise InputError(
            all_problems(tr("prompt {index} is empty: it has no tokens", index=index + 1) for index in empty)
        )
