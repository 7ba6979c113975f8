"""Measures how well a tokenizer suits Korean: its share of Hangul tokens, syllables without a token, text per token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_loopai.text.hangul import nfc
from mlx_loopai.text.scripts import Script, script_counts

SYLLABLES = tuple(chr(code) for code in range(0xAC00, 0xD7A4))
_BROKEN = "\ufffd"


@dataclass(frozen=True)
class Cost:
    """The tokens of one language's text. broken_share: share of tokens that are not whole characters by themselves."""

    characters: int
    tokens: int
    tokens_per_character: float
    broken_share: float


@dataclass(frozen=True)
class TokenizerReport:
    """Figures of a tokenizer.

    classes: number of tokens by what they decode to: a script, "no letters", "mixed", "part of a character".
    hangul_share: share of tokens whose letters are all Hangul. syllables_without_token: how many of the 11,172 Hangul
    syllables no single token spells, neither alone nor after a space. cost: language -> `Cost`.
    """

    vocabulary: int
    classes: dict[str, int]
    hangul_share: float
    syllables_without_token: int
    cost: dict[str, Cost]

    def relative_cost(self, language: str, to: str) -> float:
        """Tokens per character of `language` over those of `to`."""
        return self.cost[language].tokens_per_character / self.cost[to].tokens_per_character


def tokenizer_report(tokenizer: Any, texts: Mapping[str, Sequence[str]]) -> TokenizerReport:
    """Look at every token of `tokenizer` (Hugging Face's interface) and count the tokens of `texts` by language."""
    ids = sorted(set(tokenizer.get_vocab().values()))
    decoded = [tokenizer.decode([token]) for token in ids]
    classes = Counter(map(token_class, decoded))
    spelled = {text.strip() for text in decoded}
    return TokenizerReport(
        vocabulary=len(ids),
        classes=dict(classes.most_common()),
        hangul_share=classes[Script.HANGUL] / len(ids),
        syllables_without_token=sum(syllable not in spelled for syllable in SYLLABLES),
        cost={language: _cost(tokenizer, found) for language, found in texts.items()},
    )


def token_class(text: str) -> str:
    """The only script of a decoded token's letters, "mixed" for several, "no letters", or "part of a character"."""
    if _BROKEN in text:
        return "part of a character"
    scripts = [name for name in script_counts(text) if Script(name).is_letter]
    if not scripts:
        return "no letters"
    return str(scripts[0]) if len(scripts) == 1 else "mixed"


def _cost(tokenizer: Any, texts: Sequence[str]) -> Cost:
    normal = [nfc(text) for text in texts]
    encoded = [tokenizer.encode(text, add_special_tokens=False) for text in normal]
    characters, tokens = sum(map(len, normal)), sum(map(len, encoded))
    broken = sum(_BROKEN in tokenizer.decode([token]) for ids in encoded for token in ids)
    return Cost(characters, tokens, tokens / max(1, characters), broken / max(1, tokens))
