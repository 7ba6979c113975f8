"""The text filter: a streaming scanner that removes from Korean text what does not belong there.

It is a chain of stages, here by the rules that they count:

    emoji, control -> nfc -> code (fences) -> html (entities) -> html (marks of chat formats) -> url (links) ->
    html (tags) -> url (addresses) -> foreign, code (lines)

Each stage reads from left to right and holds back a little text, so that the result does not depend on how the input is
cut into chunks. Text that a stage need not examine is found by one regular expression and passes in one piece.

A stage leaves a seam where it removed something. `Tidy` closes the seams and the white space around them: at the end,
and before the stages of addresses and runs. These two must see the text as a reader will, or a second pass over the
output would decide differently.

Three properties are tested. For every split of the input the stream's output equals the batch output. `clean` is
idempotent. Text in which no rule finds anything comes out byte for byte (after NFC).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import regex

from mlx_loopai.text.address_stage import Addresses
from mlx_loopai.text.characters import PLAIN, Characters, Normalise
from mlx_loopai.text.chat_marks import ChatMarks
from mlx_loopai.text.entities import Entities
from mlx_loopai.text.links import Links
from mlx_loopai.text.markup import Fences, Html
from mlx_loopai.text.measures import is_looping, purity, purity_original
from mlx_loopai.text.policy import DEFAULT_POLICY, Policy
from mlx_loopai.text.runs import Runs
from mlx_loopai.text.seams import Tidy

__all__ = ["DEFAULT_POLICY", "RULES", "Cleaned", "Filter", "Policy", "clean"]

RULES = ("nfc", "control", "html", "url", "code", "emoji", "foreign")

# Marks and conjoining jamo are not counted, so that decomposed and composed text count alike.
_INVISIBLE = regex.compile(r"[\s\p{M}\p{Cc}\p{Cf}\u1160-\u11ff]")
_SPACES = " \t\r\n"
_PLAIN_RUN = re.compile(rf"[{PLAIN}]+")
# A stage that removes something copies the rest of its piece.
_PIECE_CHARS = 1 << 16
# No rule finds anything in text of these alone.
_INERT = re.compile(r"[가-힣ㄱ-ㅎㅏ-ㅣ0-9 \n.,!?~:;'\"“”‘’「」『』《》〈〉…―—·%]*+")


@dataclass(frozen=True)
class Cleaned:
    """A cleaned text and what it took to clean it.

    removed: rule -> how often it applied; only rules that did.
    removed_share: share of visible characters that were removed, in [0, 1].
    too_much_removed: True when that share is above the policy's threshold: the text should be generated again.
    """

    text: str
    removed: dict[str, int]
    removed_share: float
    too_much_removed: bool

    @property
    def purity(self) -> float:
        """Of the cleaned text, see `measures`."""
        return purity(self.text)

    @property
    def purity_original(self) -> float:
        """Of the cleaned text, see `measures`."""
        return purity_original(self.text)

    @property
    def looping(self) -> bool:
        """True when the cleaned text repeats itself (`measures.is_looping`). Nothing is removed for it."""
        return is_looping(self.text)


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
            Entities(self.removed, keep_emoji=policy.emoji == "keep"),
            ChatMarks(self.removed),
            Links(self.removed),
            Html(self.removed),
            Tidy(),
            Addresses(self.removed),
            Tidy(),
            Runs(self.removed, policy),
            Tidy(),
        )

    def feed(self, chunk: str) -> str:
        """The text that no later input can change any more; the rest is held back."""
        return "".join(self._fed(chunk[start : start + _PIECE_CHARS]) for start in range(0, len(chunk), _PIECE_CHARS))

    def _fed(self, text: str) -> str:
        self._n_in += _count_visible(text)
        for stage in self._stages:
            text = stage.feed(text)
        self._n_out += _count_visible(text)
        return text

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
    if _INERT.fullmatch(text):
        return Cleaned(text, removed={}, removed_share=0.0, too_much_removed=False)
    scanner = Filter(policy)
    cleaned = scanner.feed(text) + scanner.close()
    return Cleaned(
        text=cleaned,
        removed={rule: scanner.removed[rule] for rule in RULES if scanner.removed[rule]},
        removed_share=scanner.removed_share,
        too_much_removed=scanner.too_much_removed,
    )


def _count_visible(text: str) -> int:
    # Most text holds no tab, and to find out is faster than to count.
    n_spaces = sum(text.count(space) for space in _SPACES if space in text)
    return len(text) - n_spaces - len(_INVISIBLE.findall(_PLAIN_RUN.sub("", text)))
