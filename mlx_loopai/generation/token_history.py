"""What the rows of a batch remember of their tokens: exactly what the choice of the next one depends on."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

# How many of the last tokens (the prompt's included) the repetition penalty looks at; mlx-lm's own choice.
PENALTY_CONTEXT = 20


@dataclass(frozen=True, eq=False)
class Past:
    """Arrays (B, ...) by name: `penalty`, `recent` (the constraint's tokens) and `bias`, those that are needed."""

    arrays: dict[str, mx.array]

    def append(self, tokens: mx.array, window: int | None) -> Past:
        """With one more token (B) a row; `recent` keeps its last `window` ones, or all."""
        arrays = dict(self.arrays)
        if "penalty" in arrays:
            arrays["penalty"] = mx.concatenate([arrays["penalty"][:, 1:], tokens[:, None]], axis=1)
        if "recent" in arrays:
            longer = mx.concatenate([arrays["recent"], tokens[:, None]], axis=1)
            arrays["recent"] = longer if window is None else longer[:, -window:]
        return Past(arrays)

    def extend(self, other: Past) -> Past:
        arrays = {}
        for name, own in self.arrays.items():
            new = other.arrays[name]
            width = max(own.shape[1], new.shape[1])
            # The oldest token again: what is that far back decides nothing but open fences, and it opens none.
            both = [mx.concatenate([one[:, :1]] * (width - one.shape[1]) + [one], axis=1) for one in (own, new)]
            arrays[name] = mx.concatenate(both)
        return Past(arrays)

    def filter(self, keep: mx.array) -> Past:
        return Past({name: array[keep] for name, array in self.arrays.items()})


def penalty_context(prompts: list[list[int]]) -> mx.array:
    """The last PENALTY_CONTEXT tokens of each prompt; short ones repeat their first, which changes no penalty."""
    rows = [([ids[0]] * PENALTY_CONTEXT + ids)[-PENALTY_CONTEXT:] for ids in prompts]
    return mx.array(rows, dtype=mx.uint32)


def left_padded(rows: list[list[int]], padding: int) -> mx.array:
    width = max(map(len, rows))
    return mx.array([[padding] * (width - len(row)) + row for row in rows], dtype=mx.uint32).reshape(len(rows), width)
