"""Texts as vectors: an encoder, or a decoder such as Qwen3-Embedding, behind one interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.encoder import ENCODERS, load_encoder, pool, read_config
from mlx_loopai.models.load import LoadedModel, hash_base, load_model, load_tokenizer, resolve_model, weight_bytes

Vectors = npt.NDArray[np.float32]

# Source: the model card of Qwen3-Embedding. Queries have an instruction before them, passages none. The vector is the
# state of the last token, <|endoftext|>.
INSTRUCTION = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
_END_OF_TEXT = "<|endoftext|>"
_MAX_DECODER_TOKENS = 2048
# Tokens computed together: enough to fill the matrix units, little memory.
_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Embedder:
    """Makes unit vectors of `dims` numbers. `base_hash` identifies the weights, `query_prefix` stands before a query.

    weight_bytes: of the model, as it is loaded.

    `encode` gives a text's token ids, cut to what the model reads; `states` the vectors (B, D) of right-padded ids
    (B, T) with their lengths (B,).
    """

    model: str
    base_hash: str
    dims: int
    query_prefix: str
    encode: Callable[[str], list[int]]
    states: Callable[[mx.array, mx.array], mx.array]
    weight_bytes: int

    def query(self, text: str) -> Vectors:
        """The vector (D,) of a question."""
        return self.passages([self.query_prefix + text])[0]

    def passages(self, texts: Sequence[str], on_done: Callable[[int], None] = lambda count: None) -> Vectors:
        """The vectors (N, D) of `texts`. `on_done` is called with how many more are ready."""
        rows = [self.encode(text) for text in texts]
        vectors = np.zeros((len(rows), self.dims), np.float32)
        for batch in _batches(rows):
            vectors[batch] = self._batch([rows[number] for number in batch])
            on_done(len(batch))
        return vectors

    def _batch(self, rows: Sequence[list[int]]) -> Vectors:
        width = max(map(len, rows))
        ids = mx.array([row + [0] * (width - len(row)) for row in rows])
        found = np.array(self.states(ids, mx.array([len(row) for row in rows])).astype(mx.float32))
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def open_embedder(model: str) -> Embedder:
    """The embedder in a folder or behind a hub id: an encoder that was converted, or a decoder as mlx-lm opens it.

    Raises: InputError when it is neither.
    """
    path = resolve_model(model)
    # A folder is found again from another place.
    name = str(path.resolve()) if Path(model).expanduser().is_dir() else model
    config = read_config(path)
    if config.get("model_type") in ENCODERS:
        return _encoder(name, path, config)
    try:
        return _decoder(name, load_model(model))
    except InputError as error:
        raise InputError(
            tr(
                "`embedder` {model}: {error}; Qwen3-Embedding as its makers publish it is converted first: mlx-loopai "
                "convert {model}",
                model=model,
                error=error,
            )
        ) from None


def _encoder(model: str, path: Path, config: dict[str, Any]) -> Embedder:
    loaded = load_encoder(path, config)
    tokenizer = load_tokenizer(path)

    def encode(text: str) -> list[int]:
        ids = list(tokenizer.encode(text))
        # The closing token stays when a text is cut.
        return ids if len(ids) <= loaded.max_tokens else [*ids[: loaded.max_tokens - 1], ids[-1]]

    def states(ids: mx.array, lengths: mx.array) -> mx.array:
        return pool(loaded.model(ids, lengths), lengths, loaded.pooling)

    return Embedder(
        model,
        base_hash=hash_base(path),
        dims=loaded.dims,
        query_prefix="",
        encode=encode,
        states=states,
        weight_bytes=weight_bytes(loaded.model),
    )


def _decoder(model: str, loaded: LoadedModel) -> Embedder:
    tokenizer = loaded.tokenizer
    end = tokenizer.get_vocab().get(_END_OF_TEXT)
    if end is None:
        raise InputError(
            tr("its tokenizer has no {end_of_text}, with which Qwen3-Embedding ends a text", end_of_text=_END_OF_TEXT)
        )
    longest = min(_MAX_DECODER_TOKENS, loaded.max_positions)

    def encode(text: str) -> list[int]:
        ids = list(tokenizer.encode(text, add_special_tokens=False))
        return [*ids[: longest - 1], end]

    def states(ids: mx.array, lengths: mx.array) -> mx.array:
        return hidden_states(loaded.model, ids, positions=(mx.arange(ids.shape[0]), lengths - 1))

    return Embedder(
        model,
        base_hash=loaded.base_hash,
        dims=loaded.shape.hidden_size,
        query_prefix=INSTRUCTION,
        encode=encode,
        states=states,
        weight_bytes=weight_bytes(loaded.model),
    )


def _batches(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Numbers of rows of similar length, at most `_BATCH_TOKENS` with their padding (or one row)."""
    batch: list[int] = []
    for number in sorted(range(len(rows)), key=lambda number: len(rows[number])):
        if batch and (len(batch) + 1) * len(rows[number]) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
