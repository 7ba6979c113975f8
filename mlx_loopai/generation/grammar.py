"""Answers in the form of a JSON schema or a regular expression, through llguidance (an extra)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_loopai.errors import InputError, install_command
from mlx_loopai.language import tr
from mlx_loopai.models.load import LoadedModel

_BITS = 32


@dataclass(frozen=True, eq=False)
class Grammar:
    """A form made ready for one tokenizer. `source` identifies it."""

    source: str
    n_tokens: int
    matcher: Callable[[], Any]

    def processor(
        self, n_prompt: int, inner: Sequence[Callable[[mx.array, mx.array], mx.array]]
    ) -> Callable[[mx.array, mx.array], mx.array]:
        """The function that mlx-lm calls with a sequence's tokens (n), the prompt's included, and its logits (1, V).

        `inner` (penalty, scripts) applies within the form. Where the two leave no token, such as at an English key that
        the schema names, the form alone decides. The form's state follows the answer's tokens, backwards too when a
        draft is refused. For that the tokens must be read from the device: one wait per token.
        """
        matcher = self.matcher()
        known: list[int] = []

        def process(tokens: mx.array, logits: mx.array) -> mx.array:
            nonlocal known
            answer = [int(token) for token in np.array(tokens[n_prompt:])]
            known = _follow(matcher, known, answer)
            allowed = self._allowed(matcher)
            constrained = logits
            for step in inner:
                constrained = step(tokens, constrained)
            both = mx.where(allowed, constrained, -mx.inf)
            formed = mx.where(allowed, logits, -mx.inf)
            return mx.where(mx.isinf(mx.max(both, axis=-1, keepdims=True)), formed, both)

        return process

    def _allowed(self, matcher: Any) -> mx.array:
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

        mask = allocate_token_bitmask(1, self.n_tokens)
        fill_next_token_bitmask(matcher, mask)
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: self.n_tokens]
        return mx.array(bits.astype(np.bool_))[None]


def _follow(matcher: Any, known: list[int], answer: list[int]) -> list[int]:
    """Bring the matcher from the tokens `known` to those of `answer`, as far as the form allows them."""
    same = next((place for place, (a, b) in enumerate(zip(known, answer, strict=False)) if a != b), None)
    same = min(len(known), len(answer)) if same is None else same
    if same < len(known):
        matcher.rollback(len(known) - same)
    taken = matcher.try_consume_tokens(answer[same:])
    return answer[: same + taken]


def json_schema_grammar(loaded: LoadedModel, path: Path) -> Grammar:
    """The form of a JSON schema file. Raises: InputError for a missing file, no JSON, an unknown schema, no extra."""
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            tr("`json_schema` {path}: {strerror}; give a file with a JSON schema", path=path, strerror=error.strerror)
        ) from None
    except ValueError as error:
        raise InputError(tr("`json_schema` {path}: not JSON: {error}", path=path, error=error)) from None
    return schema_grammar(loaded, schema, f"`json_schema` {path}")


def schema_grammar(loaded: LoadedModel, schema: object, place: str) -> Grammar:
    """The form of a JSON schema; errors name `place`. Raises: InputError for an unknown schema, no extra."""
    # Without white space between the marks: where scripts forbid what the form needs next, it could go on for ever.
    return _grammar(
        loaded,
        place,
        lambda library: library.LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_flexible": False}),
    )


def regex_grammar(loaded: LoadedModel, pattern: str) -> Grammar:
    """The form of a regular expression that the whole answer matches. Raises: InputError as above."""
    return _grammar(loaded, f"`regex` {pattern}", lambda library: library.LLMatcher.grammar_from_regex(pattern))


def _grammar(loaded: LoadedModel, place: str, compile_form: Callable[[Any], str]) -> Grammar:
    try:
        import llguidance
    except ImportError:
        raise InputError(
            tr("{place}: needs llguidance; {install}", place=place, install=install_command("grammar"))
        ) from None
    backend = getattr(loaded.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(
            tr("{place}: the tokenizer is not a fast one (tokenizer.json), which this form needs", place=place)
        )
    try:
        source = compile_form(llguidance)
    except ValueError as error:
        raise InputError(f"{place}: {' '.join(str(error).split())}") from None
    tokenizer = _tokenizer(backend, loaded.n_tokens, tuple(sorted(loaded.tokenizer.eos_token_ids)))
    problem = llguidance.LLMatcher.validate_grammar(source, tokenizer)
    if problem:
        raise InputError(f"{place}: {' '.join(problem.split())}")
    return Grammar(source, loaded.n_tokens, lambda: llguidance.LLMatcher(tokenizer, source))


@lru_cache(maxsize=1)
def _tokenizer(backend: Any, n_tokens: int, ends: tuple[int, ...]) -> Any:
    """llguidance's form of a vocabulary. For 150,000 tokens it takes most of a second, so the last one is kept."""
    import llguidance

    return llguidance.LLTokenizer(backend.to_str(), n_vocab=n_tokens, eos_token=list(ends))
