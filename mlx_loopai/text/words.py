"""Finds single words in scripts that a policy does not allow, for measuring and marking. `runs` removes whole runs."""

from __future__ import annotations

import re
from collections.abc import Iterator

import regex

from mlx_loopai.text.characters import PLAIN, SIGNS_AND_HANGUL
from mlx_loopai.text.policy import STRICT_POLICY, Policy
from mlx_loopai.text.prose import is_prose
from mlx_loopai.text.seams import LINE_ENDS

# Lower-case words of three letters and more that Korean prose does write: units, then acronyms.
_UNIT_OR_ACRONYM = re.compile(
    r"pp[mb]|mmhg|k?cal|[km]wh|[kmg]hz|[kmg]bps|mol|[rb]pm|[km]ph|dpi|fps|[khm]pa|psi|sec|min"
    r"|sns|usb|pdf|ppt|dvd|led|lcd|cctv|mbti|gps|faq|vip|dna|[cg]pu|app"
)

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
# Enough for most text, and faster: these use the standard library's `re`.
_WITHOUT_WORDS = re.compile(rf"[{SIGNS_AND_HANGUL}]*+")
_UP_TO_WORD = re.compile(rf"[{SIGNS_AND_HANGUL}]*+(?=.)", re.DOTALL)
_WITHOUT_OTHER_SCRIPTS = re.compile(rf"[{PLAIN}]*+")
_LATIN_WORD_OF_PLAIN_TEXT = re.compile(r"(?P<latin>[A-Za-z][A-Za-z0-9]*+(?:[-'’._@&/+][A-Za-z0-9]++)*+)")

_MAX_GLOSS_CHARS = 80
_HANGUL = r"\u1100-\u11ff\u302e\u302f\u3131-\u318e\u3200-\u321e\u3260-\u327e\ua960-\ua97c\uac00-\ud7fb\uffa0-\uffdc"
_OPEN_GLOSS = rf"[(（\[〔](?<=[{_HANGUL}].)[^()（）\[\]〔〕{LINE_ENDS}]"
_GLOSS = re.compile(rf"{_OPEN_GLOSS}{{1,{_MAX_GLOSS_CHARS}}}[)）\]〕]")
_MARK = regex.compile(r"\p{M}")
_JOINERS = regex.compile(r"[-'’._@&/+]")
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


def foreign_spans(text: str, policy: Policy = STRICT_POLICY) -> Iterator[tuple[int, int]]:
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
    return not is_prose([word])


def foreign_words(text: str, policy: Policy = STRICT_POLICY) -> list[str]:
    """The words of `text` (in NFC) in a script that `policy` does not allow."""
    return [text[start:end] for start, end in foreign_spans(text, policy)]
