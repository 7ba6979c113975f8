"""A prompt with pictures read into a prompt cache; everything after that is text, and written as any text is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import BatchKVCache, KVCache

from mlx_loopai.models.pass_sizes import PREFILL_TOKENS
from mlx_loopai.models.vision.pictures import Pictures, placed_in, reading_at


class ShiftedCache(KVCache):
    """Keys and values of a prompt with pictures: later tokens are rotated as if `shift` positions further on.

    In a batch mlx-lm keeps an offset for each row, from which its rotation continues. The first cache's class merges
    the caches of all prompts, so every row of a model that reads pictures has this class.
    """

    def __init__(self, cache: KVCache, shift: int) -> None:
        super().__init__()
        self.keys, self.values, self.offset = cache.keys, cache.values, cache.offset
        self.shift = shift

    @classmethod
    def merge(cls, caches: Sequence[ShiftedCache]) -> BatchKVCache:
        found = BatchKVCache.merge(caches)
        found.offset = found.offset + mx.array([cache.shift for cache in caches])
        return found


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
