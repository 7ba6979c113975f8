"""Pre-tokenizers of byte-level BPE, which split a text before merges apply, by the names that GGUF files give them.

A GGUF file holds the name alone; llama.cpp's source has its expression, without flags and look-behind. Here each name
has the expression of the tokenizer.json that it was made for.
Source: llama.cpp's llama-vocab.cpp (`tokenizer_pre`, `llm_tokenizer_bpe`), which quotes each family's tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_WITH_MARKS = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _SPACES
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?" + _UPPER + "*" + _LOWER + r"+%(ending)s|[^\r\n\p{L}\p{N}]?" + _UPPER + "+" + _LOWER
    + r"*%(ending)s|\p{N}%(digits)s| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
)  # fmt: skip
_DIGIT = r"\p{N}"


@dataclass(frozen=True)
class Split:
    """One pre-tokenizer. pattern: whose matches are cut out; None: GPT-2's own, which tokenizers has built in.

    digits: each digit is cut out before. whole_words: a piece that is a token is taken without looking at merges.
    composed: text is brought into Unicode's composed form (NFC) first. begins: llama.cpp adds the BOS token where a
    file does not say whether to. approximate: llama.cpp's own expression gives other cuts at accents and at capitals
    beyond ASCII, so such a tokenizer is read and not written.
    """

    pattern: str | None
    digits: bool = False
    whole_words: bool = False
    composed: bool = False
    begins: bool = False
    approximate: bool = False

    @property
    def normalizer(self) -> normalizers.Normalizer | None:
        return normalizers.NFC() if self.composed else None

    @property
    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        parts: list[pre_tokenizers.PreTokenizer] = []
        if self.digits:
            parts.append(pre_tokenizers.Digits(individual_digits=True))
        if self.pattern is not None:
            parts.append(pre_tokenizers.Split(Regex(self.pattern), behavior="isolated"))
        parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.pattern is None))
        return pre_tokenizers.Sequence(parts) if len(parts) > 1 else parts[0]

    def cuts_like(self, other: Split) -> bool:
        """Whether llama.cpp gives both the same ids, apart from BOS; it never composes, so `composed` may differ."""
        return (self.pattern, self.digits, self.whole_words) == (other.pattern, other.digits, other.whole_words)


_LLAMA3 = Split(pattern=_WORDS % "{1,3}", whole_words=True, begins=True)
_THREE_DIGITS = Split(pattern=_WORDS % "{1,3}")
_GPT2 = Split(pattern=None)
_SINGLE_DIGITS = Split(pattern=None, digits=True)
_O200K = Split(pattern=_CASED % {"ending": _ENDINGS + "?", "digits": "{1,3}"}, approximate=True)
# A file is written with the first name whose cuts are the tokenizer's.
SPLITS = {
    "qwen2": Split(pattern=_WORDS % "", composed=True),
    "qwen35": Split(pattern=_WITH_MARKS, composed=True),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "midm-2.0": _LLAMA3,
    "smaug-bpe": _THREE_DIGITS,
    "dbrx": _THREE_DIGITS,
    "gpt-2": _GPT2,
    "exaone4": _GPT2,
    "a.x-4.0": _GPT2,
    "olmo": _GPT2,
    "trillion": _GPT2,
    "smollm": _SINGLE_DIGITS,
    "exaone": _SINGLE_DIGITS,
    "gpt-4o": _O200K,
    "kanana2": _O200K,
    "tekken": Split(pattern=_CASED % {"ending": "", "digits": ""}, whole_words=True, begins=True, approximate=True),
}


def split_name(document: Mapping[str, Any]) -> str | None:
    """The name under which llama.cpp cuts exactly like the tokenizer.json `document`; None where it has none."""
    found = _split_of(document)
    if found is None:
        return None
    return next((name for name, one in SPLITS.items() if not one.approximate and one.cuts_like(found)), None)


def _split_of(document: Mapping[str, Any]) -> Split | None:
    if not _composes_at_most(document.get("normalizer")):
        return None
    cutter = document.get("pre_tokenizer") or {}
    *before, last = cutter.get("pretokenizers") or [cutter]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space", True):
        return None
    digits = bool(before) and _cuts_digits(before[0])
    patterns = [_pattern(part) for part in before[digits:]]
    whole_words = bool(document["model"].get("ignore_merges"))
    if last.get("use_regex", True):
        return None if patterns else Split(pattern=None, digits=digits, whole_words=whole_words)
    if len(patterns) != 1 or patterns[0] is None:
        return None
    return Split(pattern=patterns[0], digits=digits, whole_words=whole_words)


def _composes_at_most(normalizer: Mapping[str, Any] | None) -> bool:
    if normalizer is None:
        return True
    if normalizer.get("type") == "Sequence":
        return all(map(_composes_at_most, normalizer.get("normalizers") or ()))
    return normalizer.get("type") == "NFC"


def _cuts_digits(part: Mapping[str, Any]) -> bool:
    if part.get("type") == "Digits":
        return bool(part.get("individual_digits"))
    return _pattern(part) == _DIGIT


def _pattern(part: Mapping[str, Any]) -> str | None:
    if part.get("type") != "Split" or part.get("behavior") != "Isolated" or part.get("invert"):
        return None
    found = part.get("pattern") or {}
    return found.get("Regex") if isinstance(found, Mapping) else None
