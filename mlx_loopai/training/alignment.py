"""A projector's first lesson, without the text model: a picture lies where the words of its answer lie.

It takes seconds, where each step through the text model costs what training costs, and what looks like words is
something that the text model can read from its first step on.

Source: DeViSE (Frome et al., NeurIPS 2013), section 3.2: pictures are mapped to the vectors of their words. Ours has
squared error in place of the hinge loss, and the mean of the text model's input vectors of an answer as its target.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import numpy.typing as npt

from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.models.decoder import word_vectors
from mlx_loopai.models.vision.projector import projector_of
from mlx_loopai.progress import Advance

LEARNING_RATE = 1e-3
_ROWS = 32
# Share of a picture's numbers that a step leaves out: a few numbers that tell the taught pictures apart will not do.
_DROPPED = 0.5


def align_projector(
    model: nn.Module,
    rows: Sequence[TokenRow],
    no_words: Collection[int],
    steps: int,
    seed: int,
    on_progress: Advance,
) -> None:
    """Teach the projector of `model` for `steps` steps to give the mean vector of an answer for its pictures' features.

    rows: with the features of their pictures. no_words: control tokens, such as the end of a turn.
    """
    projector, drawn = projector_of(model), np.random.default_rng(seed)
    lessons = [lesson for row in rows if (lesson := _lesson(model, row, list(no_words))) is not None]
    if projector is None or not lessons:
        return
    scale = float(np.sqrt(np.mean([np.square(lesson.words).mean() for lesson in lessons])))
    optimizer = optim.Adam(optim.linear_schedule(LEARNING_RATE, 0.0, steps), bias_correction=True)

    def loss(parameters: Any, features: mx.array, words: mx.array) -> mx.array:
        projector.update(parameters)
        return mx.square((projector(features) - words) / scale).mean()

    step, parameters = mx.value_and_grad(loss), projector.parameters()
    for number in range(steps):
        chosen = [lessons[place] for place in drawn.integers(len(lessons), size=_ROWS)]
        features = np.stack([lesson.features[drawn.choice(lesson.places)] for lesson in chosen])
        features *= drawn.random(features.shape) >= _DROPPED
        words = mx.array(np.stack([lesson.words for lesson in chosen]))
        _, gradients = step(parameters, mx.array(features), words)
        parameters = optimizer.apply_gradients(gradients, parameters)
        mx.eval(parameters, optimizer.state)
        on_progress(number + 1)
    projector.update(parameters)


@dataclass(frozen=True, eq=False)
class _Lesson:
    """places: of the features of a row's pictures. words: the mean vector of its answer."""

    features: npt.NDArray[np.float32]  # [M, W], mapped
    places: npt.NDArray[np.int64]  # [N]
    words: npt.NDArray[np.float32]  # [D]


def _lesson(model: nn.Module, row: TokenRow, no_words: list[int]) -> _Lesson | None:
    """What `row` shows and says; None where it shows no picture or says no word."""
    words = row.ids[row.supervised & ~np.isin(row.ids, no_words)]
    if row.seen is None or not len(words):
        return None
    mean = word_vectors(model, mx.array(words)).astype(mx.float32).mean(axis=0)
    return _Lesson(row.seen.features, row.seen.which[row.seen.which > 0] - 1, np.array(mean))
