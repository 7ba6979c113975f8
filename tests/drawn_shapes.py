"""Drawings of a shape, a colour and a place with their Korean captions, and which combinations training never sees."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

QUESTION = "무엇이 보이나요?"
SHAPES = ("동그라미", "네모", "세모")
COLOURS = {"빨간": (220, 40, 40), "파란": (40, 60, 220), "노란": (240, 220, 40), "초록": (40, 170, 60)}
PLACES = {"왼쪽 위": (16, 16), "오른쪽 위": (48, 16), "왼쪽 아래": (16, 48), "오른쪽 아래": (48, 48)}


@dataclass(frozen=True)
class Drawing:
    """What stands where."""

    shape: str
    colour: str
    place: str

    @property
    def caption(self) -> str:
        # The shape first: behind colour and place a model may say the shape that they had in training, and not look.
        return f"{self.shape}, {self.colour}색, {self.place}"

    @property
    def held_out(self) -> bool:
        """Each shape, colour and place, and every two of them together, is trained on in other combinations.

        Of every colour and place one shape is left out: a caption that follows from habit is wrong.
        """
        colour, place = list(COLOURS).index(self.colour), list(PLACES).index(self.place)
        return (colour + SHAPES.index(self.shape)) % len(PLACES) == place

    def draw(self, rng: np.random.Generator) -> Image.Image:
        """64 x 64 pixels, no two alike: place, size and colour vary a little."""
        image = Image.new("RGB", (64, 64), "white")
        x, y = (middle + int(rng.integers(-2, 3)) for middle in PLACES[self.place])
        size = int(rng.integers(10, 14))
        shade = np.clip(np.array(COLOURS[self.colour]) + rng.integers(-15, 16, 3), 0, 255)
        fill, box = tuple(int(part) for part in shade), (x - size, y - size, x + size, y + size)
        pen = ImageDraw.Draw(image)
        if self.shape == "동그라미":
            pen.ellipse(box, fill=fill)
        elif self.shape == "네모":
            pen.rectangle(box, fill=fill)
        else:
            pen.polygon([(x, y - size), (x - size, y + size), (x + size, y + size)], fill=fill)
        return image


def drawings(shapes: Sequence[str] = SHAPES) -> list[Drawing]:
    return [Drawing(*parts) for parts in product(shapes, COLOURS, PLACES)]


def write_rows(folder: Path, combinations: Sequence[Drawing], each: int, seed: int) -> Path:
    """A file of rows in `folder`, with `each` drawings of every combination beside it."""
    folder.mkdir()
    rng, lines = np.random.default_rng(seed), []
    for number, drawing in enumerate(list(combinations) * each):
        drawing.draw(rng).save(folder / f"{number}.png")
        row: dict[str, Any] = {"prompt": QUESTION, "completion": drawing.caption, "images": [f"{number}.png"]}
        lines.append(json.dumps(row, ensure_ascii=False))
    file = folder / "rows.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file
