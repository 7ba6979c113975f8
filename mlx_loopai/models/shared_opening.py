"""The tokens with which all rows of a batch begin, such as a chat template's system prompt, are computed once.

Causal attention makes a token's states depend on nothing after it, so an opening has the same states in every row. The
rows then see its keys and values in front of their own. Values and gradients are those of whole rows, up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.models.decoder import architecture_in, causal_mask
from mlx_loopai.models.lora import drops_inputs


def can_share(model: nn.Module, tokens: int) -> bool:
    """Whether rows of `tokens` tokens of `model` can share an opening.

    Only softmax attention over all tokens before can, and where dropout works, each row's opening is another.
    """
    if architecture_in(model).layout == "parallel" or drops_inputs(model):
        return False
    return all("linear_attn" not in block and causal_mask(model, block, tokens) == "causal" for block in model.layers)


class OpeningKeys:
    """Keys and values of an opening, in the form of mlx-lm's caches: the first call keeps them, later ones get them."""

    def __init__(self) -> None:
        self.offset = 0
        self._kept: tuple[mx.array, mx.array] | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """(B, K, T, D) each, with the opening's in front of them."""
        if self._kept is None:
            self._kept, self.offset = (keys, values), keys.shape[2]
            return keys, values
        first_keys, first_values = self._kept
        return _behind(first_keys, keys), _behind(first_values, values)


@dataclass(frozen=True)
class SharedOpening:
    """B rows of T tokens, of which the first P are the same in all: states lie as (P + B (T - P), D), P first."""

    rows: int
    tokens: int
    opening: int

    def packed(self, ids: mx.array) -> mx.array:
        """Token ids (B, T) as (1, P + B (T - P))."""
        return mx.concatenate([ids[0, : self.opening], ids[:, self.opening :].flatten()])[None]

    def apart(self, states: mx.array) -> tuple[mx.array, mx.array]:
        """The states of the opening (1, P, D), and of the rows (B, T - P, D)."""
        return states[None, : self.opening], states[self.opening :].reshape(self.rows, -1, states.shape[-1])

    def joined(self, opening: mx.array, rows: mx.array) -> mx.array:
        """What `apart` divided."""
        return mx.concatenate([each.reshape(-1, each.shape[-1]) for each in (opening, rows)])

    def places(self, rows: mx.array, columns: mx.array) -> mx.array:
        """Where the states of token `columns` of row `rows`, each (N,), lie."""
        own = self.opening + rows * (self.tokens - self.opening) + columns - self.opening
        return mx.where(columns < self.opening, columns, own)

    def whole(self, states: mx.array) -> mx.array:
        """The states as (B, T, D)."""
        opening, rows = self.apart(states)
        return mx.concatenate([mx.broadcast_to(opening, (self.rows, *opening.shape[1:])), rows], axis=1)


def _behind(opening: mx.array, own: mx.array) -> mx.array:
    return mx.concatenate([mx.broadcast_to(opening, (own.shape[0], *opening.shape[1:])), own], axis=2)
