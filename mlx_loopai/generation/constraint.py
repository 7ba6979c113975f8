"""The script constraint: a mask on the logits that lets through only the tokens that a `scripts` policy allows.

The policy is an automaton over UTF-8 bytes (`text.alphabet`, `text.utf8`). It is run once over every token of the
vocabulary, which gives two tables: which tokens a state allows, and the state that each leads to. At each step the
state is computed anew from the sequence's last tokens, on the device and without waiting for them. Nothing is kept from
call to call, so draft models, prompt caches and rows that join or leave a batch cannot make it stale.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_loopai.files import cache_folder, is_sealed, seal, whole_file
from mlx_loopai.generation.vocabulary import biased_tokens, latin_words, token_bytes
from mlx_loopai.models.load import TOKENIZER_FILES, LoadedModel
from mlx_loopai.text.alphabet import MAX_GLOSS_CHARS, Scripts, char_classes, context_moves
from mlx_loopai.text.utf8 import all_ends, any_utf8, byte_automaton, fence_moves, token_moves

__all__ = ["Constraint", "Scripts", "Tally", "build_constraint"]

LOANWORD_BIAS = -3.0
# A character has at most 4 bytes, so at most 3 tokens come before the one that completes it.
_CHARACTER_TOKENS = 4
# A syllable, a bracket and the gloss, in the worst case one token per byte.
_GLOSS_TOKENS = 3 + 3 + 3 * MAX_GLOSS_CHARS
_FORMAT = 2
_IN_FENCE = (False, False, False, True, True, True, True, False)
_STEPS_BETWEEN_MASSES = 16


@dataclass(frozen=True, eq=False)
class Table:
    """allowed (S, V): whether state s allows token v; after (V, S): the state that follows."""

    allowed: mx.array
    after: mx.array

    def state(self, tokens: mx.array) -> mx.array:
        """The state (B) that the token ids (B, n) lead to from the start.

        Each token is a map of states, and maps compose in any grouping: log2(n) gathers instead of n.
        """
        maps = self.after[tokens]
        while maps.shape[1] > 1:
            even = maps.shape[1] // 2 * 2
            joined = mx.take_along_axis(maps[:, 1:even:2], maps[:, 0:even:2].astype(mx.uint32), axis=-1)
            maps = mx.concatenate([joined, maps[:, even:]], axis=1)
        return maps[:, 0, 0]


@dataclass(frozen=True, eq=False)
class Constraint:
    """A policy prepared for one tokenizer.

    window: how many of the last tokens decide; None for all tokens of the answer, which code fences need.
    bias (V): added to the logits, for Latin words that are not quoted; None without `loanwords`.
    """

    scripts: Scripts
    table: Table
    window: int | None
    bias: mx.array | None
    free: Table | None
    fences: Table | None
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]

    @property
    def n_tokens(self) -> int:
        """The tokens of the vocabulary, without the padding rows that a model's head may have."""
        return self.table.allowed.shape[1]

    def context(self, prompt: Sequence[int]) -> list[int]:
        """The tokens of a prompt that `apply` needs: `window` ones, or with code fences the last alone."""
        return list(prompt[-(self.window or 1) :])

    def bias_of(self, prompt: Sequence[int]) -> mx.array | None:
        """The bias (V) for answers to `prompt`: none on the tokens of Latin words that it holds."""
        if self.bias is None:
            return None
        words = latin_words(self.decode(prompt))
        quoted = {token for word in words for form in (word, f" {word}") for token in self.encode(form)}
        if not quoted:
            return self.bias
        ids = mx.array(sorted(quoted))
        return mx.put_along_axis(self.bias, ids, mx.zeros(ids.shape), axis=0)

    def apply(self, tokens: mx.array, logits: mx.array, bias: mx.array | None = None) -> mx.array:
        """Logits (B, n_tokens) with -inf where the policy forbids, for sequences whose last tokens are (B, n).

        bias (V) or (B, V) from `bias_of`.
        """
        logits = logits[:, : self.n_tokens]
        recent = tokens if self.window is None else tokens[:, -self.window :]
        allowed = self.table.allowed[self.table.state(recent)]
        if self.fences is not None and self.free is not None:
            inside = mx.array(_IN_FENCE)[self.fences.state(tokens)][:, None]
            free = self.free.allowed[self.free.state(tokens[:, -_CHARACTER_TOKENS:])]
            allowed = mx.where(inside, free, allowed)
            bias = None if bias is None else mx.where(inside, 0.0, bias)
        if bias is not None:
            logits = logits + bias.astype(logits.dtype)
        return mx.where(allowed, logits, -mx.inf)

    def processor(
        self, prompt: Sequence[int], tally: Tally | None = None, bias: mx.array | None = None
    ) -> Callable[[mx.array, mx.array], mx.array]:
        """The constraint as mlx-lm calls it, with a sequence's tokens (n) and its logits (1, V), for one prompt.

        Without code fences `tokens` may begin anywhere in the prompt; with them it holds the whole prompt. bias: of the
        prompt, from `bias_of`.
        """
        n_before = len(prompt) - 1

        def process(tokens: mx.array, logits: mx.array) -> mx.array:
            recent = tokens[n_before:] if self.window is None else tokens[-self.window :]
            constrained = self.apply(recent[None], logits, bias)
            if tally is not None:
                tally.add(logits, constrained)
            return constrained

        return process


class Tally:
    """How often a constraint had to step in. It is summed on the device, so that only reading it waits."""

    def __init__(self) -> None:
        self._over = mx.array(0.0)
        self._mass = mx.array(0.0)
        self._steps = self._masses = 0

    def add(self, logits: mx.array, constrained: mx.array) -> None:
        """Count one step of one answer: logits before and after the constraint (1, V)."""
        count_rows([self], logits, constrained)

    @property
    def measures_mass(self) -> bool:
        """Whether the next step's probability mass is measured: it needs an exponential of all logits."""
        return self._steps % _STEPS_BETWEEN_MASSES == 0

    def count(self, masked: mx.array, lost: mx.array | None) -> None:
        """Count one step: whether the likeliest token was forbidden, and where measured the mass of what was."""
        self._over = self._over + masked
        self._steps += 1
        if lost is not None:
            self._mass = self._mass + lost
            self._masses += 1

    @property
    def masked_mass(self) -> float:
        """Mean probability of what was forbidden, in [0, 1], at temperature 1."""
        return float(self._mass.item()) / self._masses if self._masses else 0.0

    @property
    def argmax_masked(self) -> float:
        """The share of steps whose likeliest token was forbidden, in [0, 1]."""
        return float(self._over.item()) / self._steps if self._steps else 0.0


def count_rows(tallies: Sequence[Tally | None], logits: mx.array, constrained: mx.array) -> None:
    """Count a step of several answers, a row each, in their tallies: logits before and after the constraint (B, V)."""
    logits = logits[:, : constrained.shape[1]]
    places = mx.argmax(logits, axis=-1, keepdims=True)
    masked = mx.isinf(mx.take_along_axis(constrained, places, axis=-1))[:, 0]
    measured = [row for row, tally in enumerate(tallies) if tally is not None and tally.measures_mass]
    lost: dict[int, mx.array] = {}
    if measured:
        rows = mx.array(measured)
        mass = mx.softmax(logits[rows].astype(mx.float32), axis=-1)
        sums = mx.sum(mx.where(mx.isinf(constrained[rows]), mass, 0.0), axis=-1)
        lost = {row: sums[place] for place, row in enumerate(measured)}
    for row, tally in enumerate(tallies):
        if tally is not None:
            tally.count(masked[row], lost.get(row))


def build_constraint(loaded: LoadedModel, scripts: Scripts, code_fences: bool = False) -> Constraint | None:
    """The constraint of a policy for a model's tokenizer; None for `off`. Its tables are kept in the cache folder.

    code_fences: inside ``` everything is allowed. Raises: InputError for a tokenizer whose bytes are unknown.
    """
    if scripts.is_off:
        return None
    arrays = _cached(_cache_path(loaded, scripts, code_fences), lambda: _tables(loaded, scripts, code_fences))
    window = _GLOSS_TOKENS if scripts.has_gloss else _CHARACTER_TOKENS
    n_tokens = arrays["allowed"].shape[1]
    tokenizer = loaded.tokenizer
    bias = np.where(arrays["biased"], LOANWORD_BIAS, 0.0).astype(np.float32) if "biased" in arrays else None
    return Constraint(
        scripts=scripts,
        table=_table(arrays["allowed"], arrays["after"]),
        window=None if code_fences else window,
        bias=None if bias is None else mx.array(bias),
        free=_table(arrays["free_allowed"], arrays["free_after"]) if code_fences else None,
        fences=_table(np.ones((1, n_tokens), np.bool_), arrays["fence_after"]) if code_fences else None,
        encode=lambda text: list(tokenizer.encode(text, add_special_tokens=False)),
        decode=lambda ids: str(tokenizer.decode(list(ids))),
    )


def _table(allowed: npt.NDArray[Any], after: npt.NDArray[Any]) -> Table:
    return Table(mx.array(allowed.astype(np.bool_)), mx.array(after))


def _tables(loaded: LoadedModel, scripts: Scripts, code_fences: bool) -> dict[str, npt.NDArray[Any]]:
    tokens = token_bytes(loaded.tokenizer)
    eos = [token for token in loaded.tokenizer.eos_token_ids if token < len(tokens.length)]
    automaton = byte_automaton(char_classes(scripts), context_moves(scripts))
    arrays: dict[str, npt.NDArray[Any]] = {}
    marks = eos + thinking_marks(loaded.tokenizer)
    arrays["allowed"], arrays["after"] = _with_marks(*token_moves(automaton, tokens), automaton.n_boundaries, marks)
    if "loanwords" in scripts.parts and "latin" not in scripts.parts:
        arrays["biased"] = biased_tokens(tokens)
    if code_fences:
        free = any_utf8()
        arrays["free_allowed"], arrays["free_after"] = _with_marks(*token_moves(free, tokens), free.n_boundaries, marks)
        arrays["fence_after"] = _small(all_ends(fence_moves(), tokens))
    return arrays


def thinking_marks(tokenizer: Any) -> list[int]:
    """The tokens that open and close a thinking block (Qwen3's <think> and </think>), where they are single tokens.

    They are allowed between characters; the thoughts between them must keep to the same scripts as the answer.
    """
    names = (getattr(tokenizer, "think_start", None), getattr(tokenizer, "think_end", None))
    if not any(names):
        return []
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[name] for name in names if name in vocabulary]


def _with_marks(
    allowed: npt.NDArray[np.bool_], after: npt.NDArray[Any], n_boundaries: int, marks: list[int]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[Any]]:
    """An answer may end, and a thinking block begin or end, between characters only."""
    allowed[:n_boundaries, marks] = True
    return allowed, _small(after)


def _small(after: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(S, V) -> (V, S), in one byte per state where that is enough."""
    return np.ascontiguousarray(after.T, dtype=np.uint8 if len(after) <= 256 else np.uint16)


def _cache_path(loaded: LoadedModel, scripts: Scripts, code_fences: bool) -> Path:
    digest = hashlib.sha256(f"{_FORMAT} {scripts} {code_fences} {sorted(loaded.tokenizer.eos_token_ids)}".encode())
    for file in sorted({file for pattern in TOKENIZER_FILES for file in loaded.path.glob(pattern)}):
        digest.update(file.name.encode() + file.read_bytes())
    return cache_folder() / f"constraint-{digest.hexdigest()[:32]}.npz"


def _cached(path: Path, build: Callable[[], dict[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
    """The arrays stored at `path`, if they are intact; else those of `build`, which are stored there if possible."""
    if is_sealed(path):
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    arrays = build()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            np.savez(temporary, allow_pickle=False, **arrays)
        seal(path)
    return arrays
