"""The stage that removes addresses and words in scripts the policy does not allow."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import regex

from mlx_loopai.text.characters import PLAIN, SIGNS_AND_HANGUL
from mlx_loopai.text.english import is_everyday_english
from mlx_loopai.text.seams import BREAK, CODE_END, LINE_ENDS, SEAM

# Lower-case words of three letters and more that Korean prose does write: units, then acronyms.
_UNIT_OR_ACRONYM = re.compile(
    r"pp[mb]|mmhg|k?cal|[km]wh|[kmg]hz|[kmg]bps|mol|[rb]pm|[km]ph|dpi|fps|[khm]pa|psi|sec|min"
    r"|sns|usb|pdf|ppt|dvd|led|lcd|cctv|mbti|gps|faq|vip|dna|[cg]pu|app"
)

_URL_CHARS = r"A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%"
# The last character is not punctuation: in "(http://a.kr/b)." the bracket and the full stop belong to the sentence.
_URL = regex.compile(rf"(?:(?:https?|ftp)://|www\.)(?:[{_URL_CHARS}]*[A-Za-z0-9/=_&#~+\-]\p{{M}}*+)?", regex.I)
_URL_HINTS = ("://", "w.", "W.")

_LATIN = r"[\p{Latin}&&\p{L}]"
_LATIN_TAIL = rf"[{_LATIN}\p{{M}}0-9]"
_FOREIGN = r"[\p{L}--[\p{Latin}\p{Greek}\p{Hangul}\p{Han}\p{Common}\p{Inherited}]]"
# 〇 is script Han, but in Korean it is a blank in a name: 김〇〇.
_HAN = r"[\p{Han}--[〇]]"
_GREEK = r"[\p{Greek}&&\p{L}]"
_GREEK_WORD = rf"(?P<greek>{_GREEK}[{_GREEK}\p{{M}}]*+)"
_LATIN_WORD = rf"(?P<latin>{_LATIN}{_LATIN_TAIL}*+(?:[-'’._@&/+][{_LATIN}0-9]{_LATIN_TAIL}*+)*+)"
_LATIN_ALONE = regex.compile(_LATIN_WORD, regex.V1)
_LATIN_OR_GREEK = rf"{_GREEK_WORD}|{_LATIN_WORD}"
_WORDS_WITHOUT_HAN = regex.compile(rf"{_LATIN_OR_GREEK}|(?P<foreign>{_FOREIGN}[{_FOREIGN}\p{{M}}ー゛゜]*+)", regex.V1)
_WORDS_WITH_HAN = regex.compile(
    rf"{_LATIN_OR_GREEK}|(?P<foreign>[{_FOREIGN}{_HAN}][{_FOREIGN}{_HAN}\p{{M}}ー゛゜、。，；：！？・]*+)", regex.V1
)
# Most text needs no more than these, which are the standard library's `re` for its speed.
_WITHOUT_WORDS = re.compile(rf"[{SIGNS_AND_HANGUL}{SEAM}{BREAK}]*+")
_UP_TO_WORD = re.compile(rf"[{SIGNS_AND_HANGUL}{SEAM}{BREAK}]*+(?=.)", re.DOTALL)
_WITHOUT_OTHER_SCRIPTS = re.compile(rf"[{PLAIN}{SEAM}{BREAK}]*+")
_LATIN_WORD_OF_PLAIN_TEXT = re.compile(r"(?P<latin>[A-Za-z][A-Za-z0-9]*+(?:[-'’._@&/+][A-Za-z0-9]++)*+)")

_MAX_GLOSS_CHARS = 80
_HANGUL = r"\u1100-\u11ff\u302e\u302f\u3131-\u318e\u3200-\u321e\u3260-\u327e\ua960-\ua97c\uac00-\ud7fb\uffa0-\uffdc"
_OPEN_GLOSS = rf"[(（\[〔](?<=[{_HANGUL}].)[^()（）\[\]〔〕{LINE_ENDS}]"
_GLOSS = re.compile(rf"{_OPEN_GLOSS}{{1,{_MAX_GLOSS_CHARS}}}[)）\]〕]")
_GLOSS_TO_COME = re.compile(rf"{_OPEN_GLOSS}{{0,{_MAX_GLOSS_CHARS}}}\Z")
_TICK = re.compile("`")
_UP_TO_LAST_SPACE = re.compile(rf".*[\s{BREAK}]", re.DOTALL)
_MARK = regex.compile(r"\p{M}")
_JOINERS = regex.compile(r"[-'’._@&/+]")


@dataclass(frozen=True)
class Policy:
    """What may stay in Korean text.

    latin: `prose` drops the words of everyday English (`english.is_everyday_english`) and keeps names and terms;
        `acronyms` drops all lower-case words of three letters and more but units; `keep` leaves all Latin words.
    han: `gloss` keeps Hanja in brackets right after Hangul, `keep` all of it, `drop` none. Under `gloss` Latin words
        stay in such brackets too: 함수(function).
    emoji: `drop` or `keep`.
    quoted: Latin words, in lower case, that stay because the prompt holds them (`quoted_words`).
    max_removed_share: above this share of the visible characters a cleaned text is called damaged, not mended.
    """

    latin: Literal["prose", "acronyms", "keep"] = "prose"
    han: Literal["gloss", "keep", "drop"] = "gloss"
    emoji: Literal["drop", "keep"] = "drop"
    quoted: frozenset[str] = frozenset()
    max_removed_share: float = 0.3


DEFAULT_POLICY = Policy()
# For measuring: every foreign word counts, also one that a reader may let pass.
STRICT_POLICY = Policy(latin="acronyms")
_IN_GLOSS = Policy(latin="keep")


def is_allowed_latin(word: str) -> bool:
    """True for Latin words that Korean prose uses: AI, K-pop, iPhone, mp3, kg, km/h, p.m.; False for `walked`."""
    if any(char.isupper() or char.isdigit() for char in word):
        return True
    parts = _JOINERS.split(_MARK.sub("", word))
    return all(len(part) < 3 or is_unit_or_acronym(part) for part in parts)


def is_unit_or_acronym(word: str) -> bool:
    """True for the lower-case words of three letters and more that Korean prose writes: ppm, kcal, sns."""
    return _UNIT_OR_ACRONYM.fullmatch(word) is not None


def quoted_words(prompt: str) -> frozenset[str]:
    """The Latin words of a prompt, in lower case, for `Policy.quoted`."""
    return frozenset(found.group().lower() for found in _LATIN_ALONE.finditer(prompt))


def foreign_spans(text: str, policy: Policy = DEFAULT_POLICY) -> Iterator[tuple[int, int]]:
    """Start and end of each word of `text` (in NFC) in a script that `policy` does not allow, from left to right."""
    if _WITHOUT_WORDS.fullmatch(text):
        return
    start = 0
    glosses = _GLOSS.finditer(text) if policy.han == "gloss" else ()
    for gloss in glosses:
        yield from _spans(text, start, gloss.start(), policy, policy.han == "keep")
        yield from _spans(text, gloss.start(), gloss.end(), _IN_GLOSS, True)
        start = gloss.end()
    yield from _spans(text, start, len(text), policy, policy.han == "keep")


def _spans(text: str, start: int, end: int, policy: Policy, han_allowed: bool) -> Iterator[tuple[int, int]]:
    for found in _words(text, start, end, _WORDS_WITHOUT_HAN if han_allowed else _WORDS_WITH_HAN):
        word = found.group()
        allowed = False
        if found.lastgroup == "latin":
            allowed = _is_kept(word, policy)
        elif found.lastgroup == "greek":
            # One Greek letter is a sign (플러스 α), two are a word.
            allowed = len(word) == 1
        if not allowed:
            yield found.span()


def _words(text: str, start: int, end: int, pattern: regex.Pattern[str]) -> Iterator[re.Match[str] | regex.Match[str]]:
    """The matches of `pattern`, which is tried only where a word may begin, and not at all in plain text."""
    if _WITHOUT_OTHER_SCRIPTS.fullmatch(text, start, end):
        yield from _LATIN_WORD_OF_PLAIN_TEXT.finditer(text, start, end)
        return
    while before := _UP_TO_WORD.match(text, start, end):
        word = pattern.match(text, before.end(), end)
        if word:
            yield word
        start = word.end() if word else before.end() + 1


def _is_kept(word: str, policy: Policy) -> bool:
    if policy.latin == "keep" or word.lower() in policy.quoted:
        return True
    if policy.latin == "acronyms":
        return is_allowed_latin(word)
    return not is_everyday_english(word)


def foreign_words(text: str, policy: Policy = DEFAULT_POLICY) -> list[str]:
    """The words of `text` (in NFC) in a script that `policy` does not allow."""
    return [text[start:end] for start, end in foreign_spans(text, policy)]


class Words:
    """Stage that drops addresses and foreign words; holds back one word, or one bracket that may be a gloss.

    What stands between backticks on a line stays as it is.
    """

    def __init__(self, removed: Counter[str], policy: Policy) -> None:
        self._removed = removed
        self._policy = policy
        self._held: list[str] = []
        self._in_code = False

    def feed(self, text: str) -> str:
        """The text up to the last white space, without what this stage removes."""
        out: list[str] = []
        at = 0
        while at < len(text):
            found = (CODE_END if self._in_code else _TICK).search(text, at)
            end = found.end() if found else len(text)
            if self._in_code:
                out.append(text[at:end])
            else:
                self._hold(text[at:end], out)
            if found:
                out.append(self.close())
                self._in_code = not self._in_code
            at = end
        return "".join(out)

    def close(self) -> str:
        """What was held back."""
        text = "".join(self._held)
        self._held = []
        return self._cleaned(text)

    def _hold(self, text: str, out: list[str]) -> None:
        """Hold `text` back but for what no later character can change."""
        complete = _UP_TO_LAST_SPACE.match(text)
        if complete:
            ready = "".join(self._held) + complete.group()
            gloss = _GLOSS_TO_COME.search(ready, max(0, len(ready) - _MAX_GLOSS_CHARS - 1))
            before_gloss = _UP_TO_LAST_SPACE.match(ready, 0, gloss.start()) if gloss else None
            end = (before_gloss.end() if before_gloss else 0) if gloss else len(ready)
            out.append(self._cleaned(ready[:end]))
            self._held = [ready[end:]]
            text = text[complete.end() :]
        self._held.append(text)

    def _cleaned(self, text: str) -> str:
        if _WITHOUT_WORDS.fullmatch(text):
            return text
        return "\n".join(
            line if _WITHOUT_WORDS.fullmatch(line) else self._cleaned_line(line) for line in text.split("\n")
        )

    def _cleaned_line(self, line: str) -> str:
        if any(hint in line for hint in _URL_HINTS):
            line, urls = _URL.subn(SEAM, line)
            self._removed["url"] += urls
        kept, start = [], 0
        for begin, end in foreign_spans(line, self._policy):
            kept += [line[start:begin], SEAM]
            start = end
            self._removed["foreign"] += 1
        kept.append(line[start:])
        return "".join(kept)
