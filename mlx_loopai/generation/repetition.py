"""A guard against loops that lets Korean repeat what it must: particles, endings and names.

A repetition penalty looks at single tokens, and so makes 를 and 했다 less likely each time. The guard looks at
sequences: the longer the repetition that a token would continue, the more its logit is lowered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import mlx.core as mx
import numpy as np

from mlx_loopai.errors import InputError
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.models.token_bytes import WORD_START, bytes_of_tokens
from mlx_loopai.text import binding

# How many of the answer's last tokens are searched, and the longest repetition that is counted.
WINDOW_TOKENS = 512
_MAX_MATCH_TOKENS = 48
# Content tokens that may repeat freely: a name with its title, a phrase of three words.
FREE_TOKENS = 6
_BASE = 1.75
_MAX_EXPONENT = 12


@dataclass(frozen=True, eq=False)
class RepetitionGuard:
    """What counts in a repetition, by token: `weights` (V,) is 0 for particles, endings and signs, 1 for the rest.

    Source: DRY (p-e-w, text-generation-webui 2024): the logit of a token that would continue a repetition is lowered by
    strength * 1.75 ** (repeated - free). There, single characters such as line breaks end a sequence. Here, particles
    and signs neither count nor end it, since Korean sentences of the same form share them.
    """

    loaded: LoadedModel

    @cached_property
    def weights(self) -> mx.array:
        tokenizer = self.loaded.tokenizer
        added = set(tokenizer.added_tokens_decoder)
        words = {index: token for token, index in tokenizer.get_vocab().items() if index not in added}
        weights = np.zeros(self.loaded.n_tokens, np.float32)
        try:
            tokens = bytes_of_tokens(words, str(self.loaded.path))
        except InputError:
            # A vocabulary of whole words or pieces spells them as they are.
            tokens = {index: word.replace(WORD_START, " ").encode() for index, word in words.items()}
        for index, data in tokens.items():
            weights[index] = _counts(data)
        return mx.array(weights)

    def processor(self, n_prompt: int, strength: float) -> Callable[[mx.array, mx.array], mx.array]:
        """The function that mlx-lm calls with a sequence's tokens (n) and logits (1, V); a prompt may be repeated."""

        def process(tokens: mx.array, logits: mx.array) -> mx.array:
            written = tokens[n_prompt:][-WINDOW_TOKENS:].astype(mx.int32)
            return held_back(logits, written[None], self.weights, mx.array([strength]))

        return process


def held_back(logits: mx.array, written: mx.array, weights: mx.array, strength: mx.array) -> mx.array:
    """Logits (B, V), lowered for each token that would continue a repetition of the end of its row of `written` (B, n).

    written: int32; rows that are shorter begin with -1. strength: (B,).
    """
    n_rows, n = written.shape
    if n < 2:
        return logits
    depth = min(_MAX_MATCH_TOKENS, n - 1)
    # before[:, k, i] is the token k + 1 places before place i; -1 before the beginning.
    places = np.arange(1, n)[None, :] - 1 - np.arange(depth)[:, None]
    before = mx.where(mx.array(places >= 0), written[:, mx.array(np.maximum(places, 0))], -1)
    ending = written[:, n - 1 - mx.arange(depth)][:, :, None]
    equal = mx.cumprod(((before == ending) & (ending >= 0)).astype(mx.float32), axis=1)
    repeated = mx.sum(equal * weights[mx.maximum(ending, 0)], axis=1)
    excess = mx.minimum(repeated - FREE_TOKENS, _MAX_EXPONENT)
    penalty = mx.where(excess >= 0, strength[:, None] * mx.power(_BASE, excess), 0.0)
    # Nothing is repeated at the places before a row's beginning, so that they may stand for any token.
    by_token = mx.zeros((n_rows, logits.shape[-1])).at[mx.arange(n_rows)[:, None], mx.maximum(written[:, 1:], 0)]
    return logits - by_token.maximum(penalty).astype(logits.dtype)


def _counts(token: bytes) -> bool:
    """True for a token with a letter or a digit, or a piece of one, that is not a particle or ending."""
    try:
        text = token.decode().strip()
    except UnicodeDecodeError:
        return True
    return any(char.isalnum() for char in text) and not (binding.attached(text, 0) and _is_all_bound(text))


def _is_all_bound(text: str) -> bool:
    return all("가" <= char <= "힣" for char in text)
