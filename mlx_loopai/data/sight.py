"""A model's image processor: the tokens that stand for a picture in a prompt, and the pixels its encoder reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_loopai.data.conversation import PICTURE, Message, may_be_private
from mlx_loopai.data.images import Picture, patch_grid, picture_patches, picture_size, square_pixels
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.vision.patches import Grid
from mlx_loopai.models.vision.settings import DEFAULT_MOST_PIXELS, Seen, SquareSettings

_FIRST, _LAST = ord(PICTURE), 0x10FFFD
_MARK = re.compile(f"([{chr(_FIRST)}-{chr(_LAST)}])")


@dataclass(frozen=True)
class Sight:
    """A model's image processor. max_pixels: a picture with more is scaled down; more pixels become more tokens."""

    settings: Seen
    max_pixels: int = DEFAULT_MOST_PIXELS

    def grid(self, picture: Picture) -> Grid:
        """The grid of the features that the picture becomes. Raises: InputError for a file that is not a picture."""
        patches = self.settings.patches
        if isinstance(patches, SquareSettings):
            picture_size(picture)
            return Grid(patches.rows, patches.rows, 1)
        return patch_grid(picture, patches, self.max_pixels)

    def pixels(self, picture: Picture) -> tuple[npt.NDArray[Any], Grid]:
        """(the pixels that the encoder reads, their grid). Raises: InputError when it is not a whole picture."""
        patches = self.settings.patches
        if isinstance(patches, SquareSettings):
            return square_pixels(picture, patches.side), Grid(patches.rows, patches.rows, 1)
        return picture_patches(picture, patches, self.max_pixels)

    def tokens(self, picture: Picture) -> list[int]:
        """The tokens that stand for it in a prompt. Raises: InputError for a file that is not a picture."""
        settings = self.settings
        return [*settings.before, *[settings.image_token] * self.grid(picture).features, *settings.after]

    def starts(self, ids: Sequence[int], grids: Sequence[Grid]) -> list[int]:
        """Where in `ids` the features of each picture begin.

        Raises: InputError where the tokens of pictures in `ids` are not those of `grids`.
        """
        places = np.flatnonzero(np.asarray(ids) == self.settings.image_token)
        if len(places) != sum(grid.features for grid in grids):
            raise InputError(
                tr(
                    "the prompt has {found} picture tokens, but its pictures need {wanted}: a text contains the name of"
                    " the control token of pictures",
                    found=len(places),
                    wanted=sum(grid.features for grid in grids),
                )
            )
        begins = np.cumsum([0, *(grid.features for grid in grids)])[:-1]
        return [int(places[begin]) for begin in begins]


def marked(messages: Sequence[Message], sight: Any) -> tuple[list[Message], tuple[Picture, ...]]:
    """The messages with a different mark for each picture, and the pictures in the order of their marks.

    Raises: InputError naming a picture where the model has no `sight`.
    """
    found: list[Picture] = []
    given: list[Message] = []
    for message in messages:
        if not message.pictures:
            plain = _MARK.sub("", message.content) if may_be_private(message.content) else message.content
            given.append(message if plain == message.content else replace(message, content=plain))
            continue
        if sight is None:
            raise InputError(
                tr(
                    "{picture}: this model reads text only; use a model that sees, such as Qwen3-VL, or give this one"
                    " an encoder with `mlx-loopai vision add`",
                    picture=message.pictures[0].name,
                )
            )
        first, *rest = message.content.split(PICTURE)
        assert len(rest) == len(message.pictures)
        texts = [f"{chr(_FIRST + len(found) + place)}{text}" for place, text in enumerate(rest)]
        given.append(replace(message, content=first + "".join(texts)))
        found += message.pictures
    return given, tuple(found)


def divided(text: str) -> Iterator[str | int]:
    """`text` in parts: texts, and the numbers of the pictures that `marked` put between them."""
    for part in _MARK.split(text):
        if len(part) == 1 and _FIRST <= ord(part) <= _LAST:
            yield ord(part) - _FIRST
        elif part:
            yield part
