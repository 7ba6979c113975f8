"""A prompt with pictures read into a prompt cache; everything after that is text, and written as any text is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.models.pass_sizes import PREFILL_TOKENS
from mlx_loopai.models.vision.pictures import Pictures, placed_in, reading_at


def read_prompt(
    model: nn.Module, cache: list[Any], ids: Sequence[int], pictures: Pictures, chunk: int = PREFILL_TOKENS
) -> None:
    """Read those of `ids` that `cache` does not hold, `chunk` tokens at a time: the same keys and values as in one.

    pictures: of all `ids`. What is read later must be read within `reading_at` their positions too.
    """
    start = next(int(layer.offset) for layer in cache if hasattr(layer, "offset"))
    with reading_at(model, pictures.positions):
        for begin in range(start, len(ids), chunk):
            end = min(begin + chunk, len(ids))
            with placed_in(model, pictures.part(begin, end)):
                # Only the caches are evaluated: the logits of a prompt (B x T x V) are never made.
                model(mx.array([list(ids[begin:end])]), cache=cache)
                mx.eval([layer.state for layer in cache])
