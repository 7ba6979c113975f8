"""Tokenises with tiktoken, at a third of the tokenizers library's time, where it certainly gives the same tokens.

Both split a text at special tokens, then into words by a pattern, and join the bytes of a word by ranked merges. The
tokens are the same where

- the pattern is one that is known here, and the text has only characters that belong to the same classes in every
  version of Unicode and that NFC leaves alone, so that both find the same words;
- the tokenizers library, given a token's text alone, gives that token, for every token. tiktoken joins any two parts
  that are a token together, the tokenizers library only the two of the merge. Let them differ first at the parts u and
  v of a token w. Up to there nothing was joined across the ends of w. So w alone would have come to u and v as well,
  and the tokenizers library, which cannot join these two, would not have given w.

The first texts are encoded by both nevertheless.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mlx_loopai.models.token_bytes import byte_alphabet

if TYPE_CHECKING:
    import tiktoken

# GPT-2's, inside the tokenizers library, and the same where every digit is cut off before.
_GPT_2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT_2_DIGITS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
# Of Qwen2 to Qwen3, Qwen3.5, Llama 3.
_SPLITS = tuple(
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?{letters}+|\p{{N}}{digits}| ?[^\s{others}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
    for letters, digits, others in (
        (r"\p{L}", "", r"\p{L}\p{N}"),
        (r"[\p{L}\p{M}]", "", r"\p{L}\p{M}\p{N}"),
        (r"\p{L}", "{1,3}", r"\p{L}\p{N}"),
    )
)
# ASCII, punctuation, Hangul, kana, Chinese characters, arrows and shapes, pictographs. Not letters with marks.
_PLAIN = re.compile(
    "[\t\n\r -~\u2010-\u2027\u2030-\u205e\u2190-\u21ff\u2460-\u24ff\u2500-\u27bf\u3001-\u3020\u3041-\u3096\u30a1-\u30fe"
    "\u3131-\u318e\u4e00-\u9fa5\uac00-\ud7a3\ufe0f\uff01-\uff5e\U0001f300-\U0001faff]*"
)
# Those that plain characters have in UTF-8.
_PLAIN_BYTES = frozenset((*b"\t\n\r", *range(0x20, 0x7F), *range(0x80, 0xC0), *range(0xE2, 0xF1)))
_CHECKED_TEXTS = 256
# Pieces of at most `_SHORT` characters whose tokens are kept.
_KEPT_PIECES, _SHORT = 64, 1 << 12


class BytePairs:
    """A byte-level BPE tokenizer, run by tiktoken. `differs`: it gave other tokens for one of the first texts."""

    def __init__(self, backend: Any, encoding: tiktoken.Encoding, special: Mapping[str, int]) -> None:
        self._backend, self._encode, self._special = backend, encoding.encode_ordinary, special
        self._names = re.compile(f"({'|'.join(map(re.escape, special)) or '(?!)'})")
        # What a chat template writes between texts comes again and again.
        self._encode_short = lru_cache(_KEPT_PIECES)(self._encode)
        self._unchecked, self.differs = _CHECKED_TEXTS, False

    @staticmethod
    def of(backend: Any) -> BytePairs | None:
        """That of a tokenizer of the tokenizers library; None where the same tokens are not certain."""
        form = json.loads(backend.to_str())
        joined = _joined(form["model"].get("merges", ()))
        pattern, special, ranks = _pattern(form), _special(form), _ranks(form, joined)
        if pattern is None or special is None or ranks is None or backend.encode_special_tokens:
            return None
        if any(len(backend.model.tokenize(token)) != 1 for token in joined):
            return None
        import tiktoken

        return BytePairs(
            backend, tiktoken.Encoding("", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}), special
        )

    def ids(self, text: str) -> list[int] | None:
        """The tokens of `text`; None where they are not certain."""
        if self.differs or not _PLAIN.fullmatch(text):
            return None
        found = []
        for piece in self._names.split(text):
            if piece in self._special:
                found.append(self._special[piece])
            elif piece:
                found += self._encode(piece) if len(piece) > _SHORT else self._encode_short(piece)
        if self._unchecked:
            self._unchecked -= 1
            self.differs = found != self._backend.encode(text, add_special_tokens=False).ids
        return None if self.differs else found


def _pattern(form: dict[str, Any]) -> str | None:
    """The pattern that finds words; None for anything that is not known to find the same words."""
    if (form["normalizer"] or {"type": "NFC"}) != {"type": "NFC"} or form["truncation"] or form["padding"]:
        return None
    splitter = form["pre_tokenizer"] or {}
    match splitter.get("pretokenizers", [splitter]):
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ] if pattern in _SPLITS:
            return str(pattern)
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return _GPT_2
        case [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        ]:
            return _GPT_2_DIGITS
    return None


def _special(form: dict[str, Any]) -> dict[str, int] | None:
    """The tokens that are found in a text before it is split; None where they are found in another way than by name."""
    added = form["added_tokens"]
    names = sorted(token["content"] for token in added)
    ambiguous = any(longer.startswith(name) for name, longer in pairwise(names))
    ways = ("single_word", "lstrip", "rstrip", "normalized")
    if ambiguous or any(token[way] for token in added for way in ways):
        return None
    return {token["content"]: token["id"] for token in added}


def _ranks(form: dict[str, Any], joined: Sequence[str]) -> dict[bytes, int] | None:
    """The bytes of every token -> its number, which is the rank of its merge too; None for another kind of model.

    joined: the token of each merge.
    """
    model = form["model"]
    options = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    if model["type"] != "BPE" or any(model.get(name) for name in (*options, "byte_fallback", "ignore_merges")):
        return None
    vocabulary = model["vocab"]
    values = {character: byte for byte, character in enumerate(byte_alphabet()) if character in vocabulary}
    numbers = [vocabulary[one] for one in joined]
    added = {token["content"] for token in form["added_tokens"]}
    if (
        numbers != sorted(set(numbers))
        or vocabulary.keys() - added != values.keys() | set(joined)
        or not _PLAIN_BYTES.issubset(values.values())
    ):
        return None
    return {bytes(map(values.__getitem__, token)): vocabulary[token] for token in (*values, *joined)}


def _joined(merges: Sequence[Any]) -> list[str]:
    """The token of each merge, in which a character stands for a byte. Older files write a merge as one text."""
    return ["".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]
