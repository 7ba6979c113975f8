"""The seam between pictures and a text model: their features stand in place of the embeddings of their tokens.

The text model stays what it is, so adapters, losses, guards and caches go on working. What pictures add to it are the
features, the three rotary positions of every token, and what DeepStack adds to the states behind the first blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_loopai.models.decoder import text_model
from mlx_loopai.models.micro_batch import PictureRows
from mlx_loopai.models.vision.positions import rope_positions
from mlx_loopai.models.vision.projector import projector_of
from mlx_loopai.models.vision.rotary import places_of
from mlx_loopai.models.vision.tower import PictureFeatures

Run = Callable[[mx.array], mx.array]
_PAD_FEATURES_TO = 64


@dataclass(frozen=True, eq=False)
class Pictures:
    """What pictures are to B rows of T tokens.

    which: for each token 1 + the feature that stands in its place, 0 for text. features: one for each picture token.
    positions: the three rotary positions of each token; None for a model that has one only, as text has. deepstack:
    what is added to the states behind each of the first L blocks.
    """

    which: mx.array  # [B, T]
    features: mx.array  # [N, D]
    positions: mx.array | None = None  # [3, B, T]
    deepstack: mx.array | None = None  # [L, N, D]

    @staticmethod
    def of(tokens: int, starts: Sequence[int], found: Sequence[PictureFeatures], three_positions: bool) -> Pictures:
        """Those of one row of `tokens` tokens: the picture `found[i]` begins at token `starts[i]`."""
        which = np.zeros((1, tokens), np.int32)
        place = 1
        for start, picture in zip(starts, found, strict=True):
            which[0, start : start + picture.grid.features] = np.arange(place, place + picture.grid.features)
            place += picture.grid.features
        deep = [picture.deepstack for picture in found if picture.deepstack is not None]
        positions = rope_positions(tokens, starts, [picture.grid for picture in found]) if three_positions else None
        return Pictures(
            which=mx.array(which),
            features=mx.concatenate([picture.features for picture in found]),
            positions=None if positions is None else mx.array(positions)[:, None],
            deepstack=mx.concatenate(deep, axis=1) if deep else None,
        )

    @staticmethod
    def of_rows(rows: PictureRows | None) -> Pictures | None:
        """Those that predict the tokens of `rows` from the second on; None where there are none.

        The features are padded to a multiple, so that a compiled step is traced for few shapes.
        """
        which = None if rows is None else rows.which[:, :-1]
        if rows is None or which is None or not which.any():
            return None
        used = np.unique(which[which > 0])
        places = np.where(which > 0, np.searchsorted(used, which) + 1, 0).astype(np.int32)
        padding = -len(used) % _PAD_FEATURES_TO

        def read(stored: np.ndarray) -> mx.array:
            found = stored[used - 1]
            return mx.array(np.pad(found, [(0, padding), *[(0, 0)] * (found.ndim - 1)]))

        return Pictures(
            which=mx.array(places),
            features=read(rows.features),
            positions=None if rows.positions is None else mx.array(rows.positions[:, :, :-1].swapaxes(0, 1)),
            deepstack=None if rows.deepstack is None else read(rows.deepstack).swapaxes(0, 1),
        )

    @property
    def arrays(self) -> dict[str, mx.array]:
        """Those that are there by name, of which `Pictures(**arrays)` is made again."""
        named = {"which": self.which, "features": self.features, "positions": self.positions}
        return {name: one for name, one in (named | {"deepstack": self.deepstack}).items() if one is not None}

    @property
    def deepened(self) -> int:
        """How many of the first blocks have something added behind them."""
        return 0 if self.deepstack is None else len(self.deepstack)

    @property
    def shift(self) -> int:
        """What is added to the index of a token after the pictures of one row to give its rotary position."""
        return 0 if self.positions is None else int(self.positions.max()) + 1 - self.positions.shape[2]

    def placed(self, model: nn.Module, embeddings: mx.array) -> mx.array:
        """`embeddings` (B, T, D) of `model` with the features, projected where it has a projector, in their places."""
        projector = projector_of(model)
        features = self.features if projector is None else projector(self.features)
        found = _at(self.which, features).astype(embeddings.dtype)
        return mx.where(self.which[..., None] > 0, found, embeddings)

    def added(self, states: mx.array, block: int) -> mx.array:
        """`states` (B, T, D) behind the block of that number."""
        if self.deepstack is None or block >= len(self.deepstack):
            return states
        return states + _at(self.which, self.deepstack[block]).astype(states.dtype)

    def part(self, begin: int, end: int) -> Pictures:
        """Those of the tokens from `begin` to `end`, for `placed` and `added`."""
        return Pictures(self.which[:, begin:end], self.features, None, self.deepstack)

    def rotating(self, model: nn.Module, run: Run) -> Run:
        """`run`, a block of `model`, at the pictures' positions whenever it runs, in a backward pass too."""
        if self.positions is None:
            return run

        def rotated(states: mx.array) -> mx.array:
            with reading_at(model, self.positions):
                return run(states)

        return rotated


@contextmanager
def reading_at(model: nn.Module, positions: mx.array | None) -> Iterator[None]:
    """Within it the first tokens that `model` reads have `positions` (3, B, T), and later ones go on from them."""
    places = places_of(model)
    with nullcontext() if places is None or positions is None else places.at(positions):
        yield


@contextmanager
def placed_in(model: nn.Module, pictures: Pictures) -> Iterator[None]:
    """Within it `model`, called for the tokens of `pictures` with or without a cache, reads the pictures in them."""
    body = text_model(model).model
    name = "embed_in" if "embed_in" in body else "embed_tokens"
    embedding, blocks = body[name], body.layers
    setattr(body, name, _Placed(embedding, partial(pictures.placed, model)))
    body.layers = [
        _Deepened(block, pictures, index) if index < pictures.deepened else block for index, block in enumerate(blocks)
    ]
    try:
        yield
    finally:
        setattr(body, name, embedding)
        body.layers = blocks


class _Placed(nn.Module):
    """An embedding whose picture tokens are the pictures' features."""

    def __init__(self, embedding: nn.Module, placed: Run) -> None:
        super().__init__()
        self.embedding = embedding
        self._placed = placed

    def __call__(self, ids: mx.array) -> mx.array:
        return self._placed(self.embedding(ids))

    def as_linear(self, x: mx.array) -> mx.array:
        return self.embedding.as_linear(x)


class _Deepened(nn.Module):
    """A block with what a picture adds behind it."""

    def __init__(self, block: nn.Module, pictures: Pictures, index: int) -> None:
        super().__init__()
        self.block = block
        self._pictures, self._index = pictures, index

    def __call__(self, x: mx.array, *arguments: object) -> mx.array:
        return self._pictures.added(self.block(x, *arguments), self._index)


def _at(which: mx.array, features: mx.array) -> mx.array:
    """(B, T, D): the feature of each token, zeros for text."""
    nothing = mx.zeros((1, features.shape[1]), features.dtype)
    return mx.take(mx.concatenate([nothing, features]), which, axis=0)
