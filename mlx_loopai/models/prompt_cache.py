"""Prompt caches: keys and values of a prompt's beginning, computed once, shared by many answers, or kept in a file."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import (
    LRUPromptCache,
    can_trim_prompt_cache,
    load_prompt_cache,
    make_prompt_cache,
    save_prompt_cache,
    trim_prompt_cache,
)

from mlx_loopai.errors import InputError
from mlx_loopai.files import whole_file
from mlx_loopai.language import tr
from mlx_loopai.models.adapters import WEIGHTS_FILE
from mlx_loopai.models.answering_pass import answering

_PREFILL_TOKENS = 2048
_KIND = "mlx-loopai prompt cache"
_MOST_SEQUENCES = 32
# A cached beginning must be this long to be worth looking up and joining. Copying what is known of a token takes
# microseconds, and reading it again a pass over the weights, but few tokens more hardly lengthen a pass.
WORTH_TOKENS = 16


@dataclass(frozen=True, eq=False)
class Prefix:
    """The first tokens of prompts, and the keys and values that the model's layers computed for them."""

    tokens: tuple[int, ...]
    cache: list[Any]

    def fits(self, prompt: Sequence[int]) -> bool:
        """True when `prompt` begins with these tokens and goes on: its last token must be left to read."""
        return len(self.tokens) < len(prompt) and tuple(prompt[: len(self.tokens)]) == self.tokens

    def own_cache(self) -> list[Any]:
        """A copy that generation may write to."""
        return copy.deepcopy(self.cache)


def compute_prefix(model: nn.Module, tokens: Sequence[int], known: Prefix | None = None) -> Prefix:
    """Read `tokens`, going on from `known` where it fits."""
    start = known if known is not None and known.fits(tokens) else None
    cache = make_prompt_cache(model) if start is None else start.own_cache()
    rest = list(tokens[len(start.tokens) if start else 0 :])
    with answering(model):
        for place in range(0, len(rest), _PREFILL_TOKENS):
            model(mx.array([rest[place : place + _PREFILL_TOKENS]]), cache=cache)
            mx.eval([layer.state for layer in cache])
    return Prefix(tuple(tokens), cache)


def shared_tokens(prompts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The tokens that all prompts begin with, but for the last token of the shortest."""
    first, *others = prompts
    length = min(len(prompt) for prompt in prompts) - 1
    for other in others:
        length = min(length, _shared_length(first, other))
    return tuple(first[:length])


def cache_identity(model: nn.Module, base_hash: str, adapter: Path | None) -> dict[str, str]:
    """What a stored cache depends on besides its tokens: the model's weights, their dtype, the adapter's weights."""
    floats = (array.dtype for _, array in tree_flatten(model.parameters()) if mx.issubdtype(array.dtype, mx.floating))
    return {
        "base": base_hash,
        "dtype": str(next(floats)).removeprefix("mlx.core."),
        "adapter": hashlib.sha256((adapter / WEIGHTS_FILE).read_bytes()).hexdigest() if adapter else "none",
    }


def save_prefix(path: Path, prefix: Prefix, identity: Mapping[str, str]) -> None:
    """Write a .safetensors file in mlx-lm's layout: whole, or after an error what it was before."""
    metadata = {**identity, "kind": _KIND, "tokens": " ".join(map(str, prefix.tokens))}
    with whole_file(path) as temporary:
        save_prompt_cache(str(temporary), prefix.cache, metadata)


def read_prefix(path: Path, identity: Mapping[str, str], tokens: Sequence[int]) -> Prefix | str:
    """The stored prefix of these `tokens`, or why the file holds another.

    Raises: InputError for a file that is not a prompt cache of this program, so that it is not overwritten.
    """
    try:
        cache, metadata = load_prompt_cache(str(path), return_metadata=True)
        kind = metadata["kind"]
        prefix = Prefix(tuple(map(int, metadata["tokens"].split())), cache)
    except (RuntimeError, KeyError, ValueError, TypeError, IndexError, AttributeError):
        kind = ""
    if kind != _KIND:
        raise InputError(
            tr("{path}: is not a prompt cache of this program; name another file, or delete it", path=path)
        )
    differing = [name for name, value in identity.items() if metadata.get(name) != value]
    if differing:
        return f"it is of another {' and '.join(differing)}"
    return prefix if prefix.tokens == tuple(tokens) else "its prompts begin otherwise"


@dataclass(frozen=True, eq=False)
class _Live(Prefix):
    """A prefix that generation extends in place."""

    def own_cache(self) -> list[Any]:
        return self.cache


class KeptCache:
    """The keys and values of one conversation, from answer to answer: each reads only the tokens that are new."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.forget()

    def forget(self) -> None:
        """Start again with an empty cache."""
        self._tokens: list[int] = []
        self._cache = make_prompt_cache(self._model)

    def prefix(self, prompt: Sequence[int]) -> Prefix:
        """What is known of `prompt`. Generation writes to it; call `keep` or `forget` after."""
        self._cut(_shared_length(self._tokens, prompt[:-1]))
        return _Live(tuple(self._tokens), self._cache)

    def keep(self, tokens: Sequence[int]) -> None:
        """Remember those of `tokens`, prompt and answer, that the model has read."""
        # Of a hybrid model only the layers with keys and values count tokens.
        read = next(int(layer.offset) for layer in self._cache if hasattr(layer, "offset"))
        self._tokens = list(tokens[:read])
        self._cut(len(self._tokens), read)

    def _cut(self, length: int, read: int | None = None) -> None:
        surplus = (len(self._tokens) if read is None else read) - length
        if surplus and not can_trim_prompt_cache(self._cache):
            self.forget()
        elif surplus:
            trim_prompt_cache(self._cache, surplus)
            self._tokens = self._tokens[:length]


class RecentPrefixes:
    """The keys and values of the sequences read last, at most `max_bytes` of them, for prompts that begin as they do.

    The states of a hybrid model cannot go back, so its sequences serve only prompts that continue them. Use it from the
    thread that owns MLX.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._kept = LRUPromptCache(_MOST_SEQUENCES, max_bytes)

    @property
    def n_bytes(self) -> int:
        return int(self._kept.nbytes)

    def prefix(self, prompt: Sequence[int], reader: str) -> Prefix | None:
        """What `reader` (the base, or an adapter, by name) has read of `prompt`; None: too little to be worth using."""
        if not len(self._kept):
            return None
        asked = list(prompt[:-1])  # the last token must be left to read
        cache, rest = self._kept.fetch_nearest_cache(reader, asked)
        length = len(asked) - len(rest)
        return Prefix(tuple(asked[:length]), cache) if cache is not None and length >= WORTH_TOKENS else None

    def keep(self, tokens: Sequence[int], cache: list[Any], reader: str) -> None:
        """Remember the `cache` of `tokens` that `reader` read; those used longest ago give way to it."""
        if len(tokens) >= WORTH_TOKENS and sum(layer.nbytes for layer in cache) <= self.max_bytes:
            # An answer's part of a batch is not copied before it is needed. Until then it holds the whole batch's.
            mx.eval([layer.state for layer in cache])
            self._kept.insert_cache(reader, list(tokens), cache)


def _shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    length = min(len(first), len(second))
    return next((place for place in range(length) if first[place] != second[place]), length)
