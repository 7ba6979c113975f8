"""The text filter: one streaming scanner that takes out of Korean text what does not belong there.

Six stages, each with its own rule names and its own small hold-back, each reading one character after another, so
that it cannot matter how the input was cut:

    emoji, control -> nfc -> code -> html -> url, foreign -> seams (white space around what was removed)

Properties, tested: for every split of the input the stream's output is the batch output; `clean` is idempotent; text
in which no rule finds anything comes out byte for byte (after NFC).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import regex

from mlx_loopai.text.characters import Characters, Normalise
from mlx_loopai.text.markup import Fences, Html
from mlx_loopai.text.measures import purity, purity_original
from mlx_loopai.text.seams import Tidy
from mlx_loopai.text.words import DEFAULT_POLICY, Policy, Words

__all__ = ["DEFAULT_POLICY", "RULES", "Cleaned", "Filter", "Policy", "clean"]

RULES = ("nfc", "control", "html", "url", "code", "emoji", "foreign")

# Marks and conjoining jamo are left out, so that decomposed and composed text count alike.
_VISIBLE = regex.compile(r"[^\s\p{M}\p{Cc}\p{Cf}\u1160-\u11ff]")
# Text of these characters alone cannot match any rule.
_CERTAINLY_CLEAN = regex.compile(r"[가-힣ㄱ-ㅎㅏ-ㅣ0-9 \t\r\n.,!?~:;()'\"“”‘’「」『』《》〈〉…―·ㆍ%\-]*+")


@dataclass(frozen=True)
class Cleaned:
    """A cleaned text and what it took to clean it.

    removed: rule -> how often it applied; only rules that did.
    purity, purity_original: of the cleaned text, see `measures`.
    removed_share: the share of visible characters that went, in [0, 1].
    too_much_removed: True when that share is above the policy's threshold: rather generate again than keep the holes.
    """

    text: str
    removed: dict[str, int]
    purity: float
    purity_original: float
    removed_share: float
    too_much_removed: bool


class Filter:
    """The filter as a stream: `feed` chunks, then `close`; the pieces returned, joined, are the cleaned text.

    `removed` counts per rule so far; `removed_share` is final after `close`.
    """

    def __init__(self, policy: Policy = DEFAULT_POLICY) -> None:
        self.policy = policy
        self.removed: Counter[str] = Counter()
        self._n_in = 0
        self._n_out = 0
        self._stages = (
            Characters(self.removed, keep_emoji=policy.emoji == "keep"),
            Normalise(self.removed),
            Fences(self.removed),
            Html(self.removed),
            Words(self.removed, policy),
            Tidy(),
        )

    def feed(self, chunk: str) -> str:
        """The text that no later input can change any more; the rest is held back."""
        self._n_in += _count_visible(chunk)
        for stage in self._stages:
            chunk = stage.feed(chunk)
        self._n_out += _count_visible(chunk)
        return chunk

    def close(self) -> str:
        """What was held back. The filter must not be fed again."""
        rest = ""
        for stage in self._stages:
            rest = stage.feed(rest) + stage.close()
        self._n_out += _count_visible(rest)
        return rest

    @property
    def removed_share(self) -> float:
        """The share of visible characters that was removed, in [0, 1]."""
        return max(0.0, 1.0 - self._n_out / self._n_in) if self._n_in else 0.0

    @property
    def too_much_removed(self) -> bool:
        """True when `removed_share` is above the policy's threshold."""
        return self.removed_share > self.policy.max_removed_share


def clean(text: str, policy: Policy = DEFAULT_POLICY) -> Cleaned:
    """`text` cleaned in one go: the same result as any stream of its pieces."""
    scanner = Filter(policy)
    cleaned = text if _CERTAINLY_CLEAN.fullmatch(text) else scanner.feed(text) + scanner.close()
    return Cleaned(
        text=cleaned,
        removed={rule: scanner.removed[rule] for rule in RULES if scanner.removed[rule]},
        purity=purity(cleaned),
        purity_original=purity_original(cleaned),
        removed_share=scanner.removed_share,
        too_much_removed=scanner.too_much_removed,
    )


def _count_visible(text: str) -> int:
    return len(_VISIBLE.findall(text))
