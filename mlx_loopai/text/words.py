"""The stage that removes addresses and words in scripts the policy does not allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import regex

from mlx_loopai.text.english import is_everyday_english
from mlx_loopai.text.seams import BREAK, LINE_ENDS, SEAM

# Lower-case words of three letters and more that Korean prose does write: units, then acronyms.
_UNIT_OR_ACRONYM = regex.compile(
    r"pp[mb]|mmhg|k?cal|[km]wh|[kmg]hz|[kmg]bps|mol|[rb]pm|[km]ph|dpi|fps|[khm]pa|psi|sec|min"
    r"|sns|usb|pdf|ppt|dvd|led|lcd|cctv|mbti|gps|faq|vip|dna|[cg]pu|app"
)

_URL_CHARS = r"A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%"
# The last character is not punctuation: in "(http://a.kr/b)." the bracket and the full stop belong to the sentence.
_URL = regex.compile(rf"(?:(?:https?|ftp)://|www\.)(?:[{_URL_CHARS}]*[A-Za-z0-9/=_&#~+\-]\p{{M}}*+)?", regex.I)

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
_HANGUL = regex.compile(r"\p{Hangul}")
_HAN_CHAR = regex.compile(_HAN, regex.V1)
_SUSPECT = regex.compile(rf"[\p{{Latin}}{_GREEK}{_HAN}{_FOREIGN}]", regex.V1)

_OPENING, _CLOSING = "(（[〔", ")）]〕"
_MAX_GLOSS_CHARS = 80
_GLOSS = regex.compile(rf"(?<=\p{{Hangul}})[(（\[〔][^()（）\[\]〔〕\n]{{1,{_MAX_GLOSS_CHARS}}}[)）\]〕]")
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
    return all(len(part) < 3 or _UNIT_OR_ACRONYM.fullmatch(part) for part in parts)


def quoted_words(prompt: str) -> frozenset[str]:
    """The Latin words of a prompt, in lower case, for `Policy.quoted`."""
    return frozenset(found.group().lower() for found in _LATIN_ALONE.finditer(prompt))


def foreign_spans(text: str, policy: Policy = DEFAULT_POLICY) -> Iterator[tuple[int, int]]:
    """Start and end of each word of `text` (in NFC) in a script that `policy` does not allow, from left to right."""
    if not _SUSPECT.search(text):
        return
    start = 0
    glosses = _GLOSS.finditer(text) if policy.han == "gloss" else ()
    for gloss in glosses:
        yield from _spans(text, start, gloss.start(), policy, policy.han == "keep")
        yield from _spans(text, gloss.start(), gloss.end(), _IN_GLOSS, True)
        start = gloss.end()
    yield from _spans(text, start, len(text), policy, policy.han == "keep")


def _spans(text: str, start: int, end: int, policy: Policy, han_allowed: bool) -> Iterator[tuple[int, int]]:
    pattern = _WORDS_WITHOUT_HAN if han_allowed else _WORDS_WITH_HAN
    for found in pattern.finditer(text, start, end):
        word = found.group()
        allowed = False
        if found.lastgroup == "latin":
            allowed = _is_kept(word, policy)
        elif found.lastgroup == "greek":
            # One Greek letter is a sign (플러스 α), two are a word.
            allowed = len(word) == 1
        if not allowed:
            yield found.span()


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
        self._unit: list[str] = []
        self._gloss_left = 0
        self._in_code = False

    def feed(self, text: str) -> str:
        """The text up to the last white space, without what this stage removes."""
        out: list[str] = []
        for char in text:
            if char == "`" or self._in_code:
                out += [self._flush(), char]
                self._in_code = char not in LINE_ENDS and (char == "`") != self._in_code
                continue
            ends_word = char == BREAK or char.isspace()
            if ends_word and (not self._gloss_left or char in LINE_ENDS):
                out.append(self._flush())
                out.append(char)
                continue
            if char in _OPENING:
                follows_hangul = self._unit and _HANGUL.match(self._unit[-1])
                self._gloss_left = _MAX_GLOSS_CHARS + 1 if follows_hangul else 0
            elif char in _CLOSING:
                self._gloss_left = 0
            elif self._gloss_left:
                self._gloss_left -= 1
            self._unit.append(char)
        return "".join(out)

    @property
    def at_rest(self) -> bool:
        """True outside code and a bracket that may be a gloss."""
        return not self._gloss_left and not self._in_code

    def close(self) -> str:
        """The last word."""
        return self._flush()

    def _flush(self) -> str:
        unit = "".join(self._unit)
        self._unit, self._gloss_left = [], 0
        if not _SUSPECT.search(unit):
            return unit
        unit, urls = _URL.subn(SEAM, unit)
        if urls:
            self._removed["url"] += urls
        kept, start = [], 0
        for begin, end in foreign_spans(unit, self._policy):
            kept += [unit[start:begin], SEAM]
            start = end
            self._removed["foreign"] += 1
        kept.append(unit[start:])
        return "".join(kept)
