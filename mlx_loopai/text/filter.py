"""The text filter: one streaming scanner that takes out of Korean text what does not belong there.

Six stages, each with its own rule names and its own small hold-back, each reading one character after another, so
that it cannot matter how the input was cut:

    emoji, control -> nfc -> code -> html -> url, foreign -> seams (white space around what was removed)

Properties, tested: for every split of the input the stream's output is the batch output; `clean` is idempotent; text
in which no rule finds anything comes out byte for byte (after NFC).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import regex

from mlx_loopai.text.characters import Characters, Normalise
from mlx_loopai.text.markup import Fences, Html
from mlx_loopai.text.measures import is_looping, purity, purity_original
from mlx_loopai.text.seams import OPENERS, Tidy
from mlx_loopai.text.words import DEFAULT_POLICY, Policy, Words

__all__ = ["DEFAULT_POLICY", "RULES", "Cleaned", "Filter", "Policy", "clean"]

RULES = ("nfc", "control", "html", "url", "code", "emoji", "foreign")

# Marks and conjoining jamo are left out, so that decomposed and composed text count alike.
_VISIBLE = regex.compile(r"[^\s\p{M}\p{Cc}\p{Cf}\u1160-\u11ff]")
# Text of these characters alone cannot match any rule; a bracket must close soon.
_SAFE = r"가-힣ㄱ-ㅎㅏ-ㅣ0-9.,!?~:;'\"“”‘’「」『』《》〈〉…―—·ㆍ%/*+=#&₩○●■★☆♥※→°\-"
_BRACKETED = rf"[(（\[〔][{_SAFE} ]{{0,60}}+[)）\]〕]"
_GLOSS = rf"(?<=[가-힣])[(（\[〔][{_SAFE} \u4e00-\u9fff]{{1,60}}+[)）\]〕]"
# Words in capitals stay under every policy; without a W, and not before a colon, they begin no address.
_CAPITALS = r"[A-VX-Z]{1,8}+(?=[가-힣0-9 \t\r\n.,!?)])"
# The standard library's `re` runs over these sets some fifty times faster than `regex`.
_SAFE_RUN = re.compile(rf"(?:[{_SAFE} \t\r\n]++|{_BRACKETED}|{_CAPITALS})*+")
_SAFE_RUN_WITH_GLOSSES = re.compile(rf"(?:[{_SAFE} \t\r\n]++|{_BRACKETED}|{_CAPITALS}|{_GLOSS})*+")
_SPACES = " \t\r\n"
_FIRST_WORD = re.compile(r"[ \t\r\n]*[^ \t\r\n]+")
_NEXT_SPACE = re.compile(r"[ \t\r\n]")


@dataclass(frozen=True)
class Cleaned:
    """A cleaned text and what it took to clean it.

    removed: rule -> how often it applied; only rules that did.
    removed_share: the share of visible characters that went, in [0, 1].
    too_much_removed: True when that share is above the policy's threshold: rather generate again than keep the holes.
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
        """True when the cleaned text repeats itself (`measures.is_looping`): a signal, nothing is removed for it."""
        return is_looping(self.text)


class Filter:
    """The filter as a stream: `feed` chunks, then `close`; the pieces returned, joined, are the cleaned text.

    `removed` counts per rule so far; `removed_share` is final after `close`.
    """

    def __init__(self, policy: Policy = DEFAULT_POLICY) -> None:
        self.policy = policy
        self.removed: Counter[str] = Counter()
        self._safe_run = _SAFE_RUN if policy.han == "drop" else _SAFE_RUN_WITH_GLOSSES
        self._n_in = 0
        self._n_out = 0
        self._characters = Characters(self.removed, keep_emoji=policy.emoji == "keep")
        self._normalise = Normalise(self.removed)
        self._middle = (Fences(self.removed), Html(self.removed), Words(self.removed, policy))
        self._tidy = Tidy()
        self._stages = (self._characters, self._normalise, *self._middle, self._tidy)

    def feed(self, chunk: str) -> str:
        """The text that no later input can change any more; the rest is held back."""
        out: list[str] = []
        start = 0
        while start < len(chunk):
            end = self._safe_end(chunk, start)
            if end > start:
                out.append(self._pass_over(chunk[start:end]))
            else:
                space = _NEXT_SPACE.search(chunk, start)
                end = space.end() if space else len(chunk)
                out.append(self._step(chunk[start:end]))
            start = end
        return "".join(out)

    def _step(self, text: str) -> str:
        """`text` through all stages, character by character."""
        self._n_in += _count_visible(text)
        for stage in self._stages:
            text = stage.feed(text)
        self._n_out += _count_visible(text)
        return text

    def _safe_end(self, chunk: str, start: int) -> int:
        """Where the words end that no stage would change, read from `start` on; `start` when there are none.

        They end with white space. Only between words, with nothing open or held back in any stage, may words be
        passed over whole.
        """
        if not all(stage.at_rest for stage in self._stages):
            return start
        run = self._safe_run.match(chunk, start)
        end = run.end() if run else start
        while end > start:
            end = 1 + max(chunk.rfind(space, start, end) for space in _SPACES)
            if end <= start:
                return start
            opening = max(chunk.rfind(bracket, start, end) for bracket in "([（〔")
            if opening > max(chunk.rfind(bracket, start, end) for bracket in ")]）〕"):
                end = opening
                continue
            body = chunk[start:end].rstrip(_SPACES)
            if body and body[-1] not in OPENERS:
                return end
            end = start + len(body)
        return start

    def _pass_over(self, text: str) -> str:
        """Safe words, ending with white space, from one state of rest to the next without the stages between."""
        held = self._normalise.close()
        for stage in (*self._middle, self._tidy):
            held = stage.feed(held)
        self._characters.pass_over(text)
        self._normalise.pass_over(text)
        self._n_in += _count_safe(text)
        if not self._tidy.at_rest:
            # What was held back put a bracket or a seam there, which the first word settles.
            word = _FIRST_WORD.match(text)
            first = text[: word.end()] if word and word.end() < len(text.rstrip(_SPACES)) else text[:-1]
            held += self._tidy.feed(first)
            text = text[len(first) :]
        self._n_out += _count_visible(held)
        if len(text) == 1 or not self._tidy.at_rest:
            return held + self._fed_to_tidy(text[:-1])
        self._n_out += _count_safe(text)
        return held + self._tidy.pass_over(text)

    def _fed_to_tidy(self, text: str) -> str:
        passed = self._tidy.feed(text)
        self._n_out += _count_visible(passed)
        return passed

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
    cleaned = text if _SAFE_RUN.fullmatch(text) else scanner.feed(text) + scanner.close()
    return Cleaned(
        text=cleaned,
        removed={rule: scanner.removed[rule] for rule in RULES if scanner.removed[rule]},
        removed_share=scanner.removed_share,
        too_much_removed=scanner.too_much_removed,
    )


def _count_safe(text: str) -> int:
    """As `_count_visible`, for safe words."""
    return len(text) - sum(text.count(space) for space in _SPACES)


def _count_visible(text: str) -> int:
    return len(_VISIBLE.findall(text))
