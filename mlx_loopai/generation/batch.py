"""Answers that are written together and come and go: mlx-lm's continuous batching, each row with its own choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from mlx_lm.generate import BatchGenerator

from mlx_loopai.generation.constraint import Constraint, Tally
from mlx_loopai.generation.engine import (
    BATCH_ROWS,
    PREFILL_TOKENS,
    REPLACEMENT,
    Generation,
    Piece,
    check_prompts,
    processors,
)
from mlx_loopai.generation.sampling import SamplingOptions, sampler
from mlx_loopai.models.load import LoadedModel

_PREFILL_ROWS = 8


@dataclass(frozen=True, eq=False)
class Request:
    """One answer to write. It draws from the stream (options.seed, row), whatever is written beside it."""

    prompt: Sequence[int]
    options: SamplingOptions
    constraint: Constraint | None = None
    tally: Tally | None = None
    row: int = 0


@dataclass(frozen=True)
class RowPiece:
    """What one token adds to the answer `key`; `last` when nothing follows."""

    key: int
    piece: Piece
    last: bool


class Batch:
    """Answers in the making. Waiting ones take the places of those that ended; use it from one thread.

    A greedy answer is the same as `generate_stream`'s, and so is a drawn one of row 0, rounding of the logits apart.
    """

    def __init__(self, loaded: LoadedModel, batch_rows: int = BATCH_ROWS) -> None:
        self._loaded = loaded
        prefill_rows = min(_PREFILL_ROWS, batch_rows)
        self._generator = BatchGenerator(
            loaded.model,
            stop_tokens=[[token] for token in loaded.tokenizer.eos_token_ids],
            completion_batch_size=batch_rows,
            prefill_batch_size=prefill_rows,
            prefill_step_size=PREFILL_TOKENS // prefill_rows,
        )
        self._detokenizers: dict[int, Any] = {}

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """How many answers wait or are being written."""
        return len(self._detokenizers)

    def close(self) -> None:
        """Give the wired memory back."""
        self._generator.close()

    def add(self, request: Request) -> int:
        """Let an answer join at the next step. Returns: its key. Raises: InputError for an empty prompt."""
        check_prompts([request.prompt])
        options = request.options
        (key,) = self._generator.insert(
            [list(request.prompt)],
            max_tokens=[options.max_tokens],
            # Rows without a sampler share the default, greedy one, and so one call.
            samplers=[sampler(options, request.row) if options.temperature else None],
            logits_processors=[processors(self._loaded, request.prompt, options, request.constraint, request.tally)],
        )
        self._detokenizers[key] = self._loaded.tokenizer.detokenizer
        return int(key)

    def remove(self, key: int) -> None:
        """Forget an answer; one that has ended is no error."""
        if self._detokenizers.pop(key, None) is not None:
            self._generator.remove([key])

    def step(self) -> list[RowPiece]:
        """The next token of each answer that is being written: none while prompts are read first."""
        _, responses = self._generator.next()
        return [self._piece(response) for response in responses]

    def _piece(self, response: Any) -> RowPiece:
        key, last = response.uid, response.finish_reason is not None
        ended = response.finish_reason == "stop"
        detokenizer = self._detokenizers[key]
        if not ended:
            detokenizer.add_token(response.token)
        text = detokenizer.last_segment
        if last:
            detokenizer.finalize()
            text = (text + detokenizer.last_segment).rstrip(REPLACEMENT)
            del self._detokenizers[key]
        return RowPiece(key, Piece(text, None if ended else response.token, ended), last)


@dataclass(eq=False)
class _Answer:
    index: int
    request: Request
    text: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    finished: bool = False

    def take(self, piece: Piece) -> None:
        self.text.append(piece.text)
        if piece.token is not None:
            self.tokens.append(piece.token)
        self.finished = piece.finished

    def whole(self) -> Generation:
        return Generation("".join(self.text), tuple(self.tokens), self.finished, len(self.request.prompt))


def generate_rows(
    loaded: LoadedModel, requests: Sequence[Request], batch_rows: int = BATCH_ROWS
) -> Iterator[tuple[int, Generation]]:
    """The answers to `requests` as they end, each with its place among them. Raises: InputError for empty prompts."""
    check_prompts([request.prompt for request in requests])
    # Neighbours in length share little padding.
    order = sorted(range(len(requests)), key=lambda place: len(requests[place].prompt))
    with Batch(loaded, batch_rows) as batch:
        answers = {batch.add(requests[place]): _Answer(place, requests[place]) for place in order}
        while len(batch):
            for found in batch.step():
                answer = answers[found.key]
                answer.take(found.piece)
                if found.last:
                    yield answer.index, answer.whole()
