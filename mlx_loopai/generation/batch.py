"""Writes many answers together by mlx-lm's continuous batching: rows join, leave and have options of their own."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any

from mlx_lm.generate import BatchGenerator
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_loopai.generation.engine import REPLACEMENT, Piece, check_prompts
from mlx_loopai.generation.request import Request
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.models.pass_sizes import ANSWERED_ROWS, PREFILL_TOKENS

__all__ = ["Batch", "Request", "RowPiece"]

_PREFILL_ROWS = 8


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

    def __init__(self, loaded: LoadedModel, batch_rows: int = ANSWERED_ROWS) -> None:
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
        self._going_on: dict[int, int] = {}  # answers that have no token yet and go on after this one

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
        prompt, prefix = list(request.prompt), request.prefix
        check_prompts([prompt])
        n_read = len(prefix.tokens) if prefix else 0
        sampler, processor = request.decoding(self._loaded.n_tokens)
        (key,) = self._generator.insert(
            [prompt[n_read:]],
            max_tokens=[request.options.max_tokens],
            # Caches are merged into the batch's, which copies them: rows may share one.
            caches=[prefix.cache] if prefix else None,
            all_tokens=[prompt[:n_read]],
            # Greedy rows share the default sampler, and so one call.
            samplers=[sampler if request.options.temperature else None],
            logits_processors=[[processor]],
        )
        self._detokenizers[key] = self._loaded.tokenizer.detokenizer
        if request.goes_on:
            self._going_on[key] = prompt[-1]
        return int(key)

    def remove(self, key: int) -> None:
        """Drop an answer; it may have ended already."""
        self._going_on.pop(key, None)
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
        before = self._going_on.pop(key, None)
        if before is not None and not ended:
            text = _lost_space(self._loaded.tokenizer, before, response.token) + text
        if last:
            detokenizer.finalize()
            text = (text + detokenizer.last_segment).rstrip(REPLACEMENT)
            del self._detokenizers[key]
        return RowPiece(key, Piece(text, None if ended else response.token, ended), last)


def _lost_space(tokenizer: TokenizerWrapper, before: int, token: int) -> str:
    """The space before `token` that a detokenizer leaves out because a text begins there; else ""."""
    detokenizer = tokenizer.detokenizer
    detokenizer.add_token(token)
    detokenizer.finalize()
    added: str = tokenizer.decode([before, token])[len(tokenizer.decode([before])) :]
    return " " if added.startswith(" ") and not detokenizer.text.startswith(" ") else ""
