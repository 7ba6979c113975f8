"""The log-probabilities of an answer's tokens, in the two shapes of OpenAI's API."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from mlx_loopai.errors import InputError
from mlx_loopai.generation.batch import Chance
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.models.token_bytes import bytes_of_tokens


class Spelling:
    """The text and the bytes of a model's tokens; a token may be only a part of a character."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    def text(self, token: int) -> str:
        return str(self._loaded.tokenizer.decode([token]))

    def chat(self, chances: Sequence[Chance]) -> dict[str, Any]:
        """`logprobs` of a chat's choice."""
        return {"content": [self._entry(chance) for chance in chances], "refusal": None}

    def plain(self, chances: Sequence[Chance], offset: int) -> dict[str, Any]:
        """`logprobs` of a plain completion whose text so far, as the model wrote it, has `offset` characters."""
        tokens = [self.text(chance.token) for chance in chances]
        return {
            "tokens": tokens,
            "token_logprobs": [chance.logprob for chance in chances],
            "top_logprobs": [{self.text(one): found for one, found in chance.likeliest} for chance in chances],
            "text_offset": [offset + sum(map(len, tokens[:number])) for number in range(len(tokens))],
        }

    def _entry(self, chance: Chance) -> dict[str, Any]:
        likeliest = [self._one(token, logprob) for token, logprob in chance.likeliest]
        return {**self._one(chance.token, chance.logprob), "top_logprobs": likeliest}

    def _one(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.text(token)
        return {"token": text, "logprob": logprob, "bytes": list(self._bytes.get(token) or text.encode())}

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        tokenizer = self._loaded.tokenizer
        added = set(tokenizer.added_tokens_decoder)
        words = {index: token for token, index in tokenizer.get_vocab().items() if index not in added}
        try:
            return bytes_of_tokens(words, str(self._loaded.path))
        except InputError:  # unknown kind of tokenizer: the decoded text is used instead
            return {}
