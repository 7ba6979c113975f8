"""Finds what to remove with a run of foreign text: its line's label, the joint before it, Korean words it mentions."""

from __future__ import annotations

import re

import regex

from mlx_loopai.text.run_patterns import QUOTES

# Labels that announce a line and are useless without it: `철수: `, `[철수] `, `철수) `, `- **질문**: `, `1. `, `## `.
_BULLET = r"(?:(?:[\-*+•▶►→☞■●◆·>]|\d{1,3}[.)]|#{1,6})[ \t]{1,3})"
# Not the end of a sentence, as in 그는 말했다: which is not a speaker's name.
_NAME = r"[가-힣0-9]{1,6}(?: [가-힣0-9]{1,6})?(?<![다요까죠])"
_SPEAKER = rf"(?:\*{{0,2}}{_NAME}\*{{0,2}} ?[:：]\*{{0,2}}|\*{{0,2}}\[{_NAME}\]\*{{0,2}}:?|{_NAME}\)) {{0,2}}"
_LABEL = regex.compile(rf"[ \t]{{0,12}}{_BULLET}{{0,2}}(?:{_SPEAKER})?")
_MAX_LABEL_CHARS = 48
# These announce a text in its own language: 영어: I love you.
_OF_TEXT = re.compile(
    r"(?:\A|\n|[.!?…,·/] )[ \t\-*•>\d.)]{0,12}[가-힣]{0,4}"
    r"(?:[가-힣]어|영문|원문|예문|원제|제목|부제|가사|번역|명언|문구|구호|표어|슬로건)"
    r"\*{0,2} ?[:：]\*{0,2} ?[\"'“‘(]?\Z"
)
_LINE_RESTS = re.compile(r"[ \t\r]{0,16}(?:\n|\Z)")
# What joins a sentence to the one before it; two dashes enclose an aside.
_JOINT = re.compile(r"(?: ?[,;，]| ?[—–]{1,2}| -{1,3}| [/|]) {0,2}\Z")
# The same between a sentence that begins its line and what follows: I am happy / 나는 행복하다.
_JOINT_AFTER = re.compile(r" {1,2}(?:[—–]{1,2}|-{1,3}|[/|]) {1,2}(?=[^\s—–\-/|])")
_DASH = re.compile(r" {0,2}[—–\-]")
MAX_JOINT_CHARS = 6
# 10 years ago he left; He was born in 1990.
_NUMBER_BEFORE = re.compile(r"(?<![\w.,$€£₩])[$€£₩]?\d[\d.,]{0,12}%? ?\Z")
_NUMBER_AFTER = re.compile(
    r":? {1,2}[$€£₩]?\d(?:[\d.,:/]{0,15}\d)?%?(?=[.!?…]{1,3}(?:[\s\"'”’)]|\Z)|[ \t]{0,2}(?:\n|\Z))"
)
_MAX_NUMBER_CHARS = 18

_MENTIONED = r"[가-힣][가-힣 ]{0,19}"
_QUOTED = "|".join(rf"{re.escape(one)}{_MENTIONED}{re.escape(closer)}" for one, closer in QUOTES.items())
# A mention of Korean words as words, up to the sentence's next word: The word "사과" means apple.
_IN_QUOTES = rf" ?(?:{_QUOTED}|\({_MENTIONED}\))(?:[ ,(]{{1,3}}(?=[a-z])|(?=[.!?](?:\s|\Z)))"
# My name is 김철수 and I live in 서울.
_BARE = r" [가-힣]{1,8}(?<![은는을를]) (?=[a-z])"
# One quick pattern for what may make a run longer: a number, or the beginning of a mention.
GOES_ON = re.compile(
    rf"(?P<number>:? {{1,2}}[$€£₩]?\d)|(?P<quoted> ?[{re.escape(''.join(QUOTES))}(][가-힣])"
    r"| [가-힣]{1,8}(?: ?\Z| [a-z])"
)
MENTION = regex.compile(rf"{_IN_QUOTES}|{_BARE}")
LATER_MENTION = regex.compile(rf"{_IN_QUOTES}|{_BARE}| [가-힣]{{1,8}}(?=[.!?](?:\s|\Z))")
_FIRST_MENTION = regex.compile(rf"(?:{_QUOTED}) ?\Z")
# Not a pronoun: it begins a new sentence, and the words in quotes before it were speech.
_GOES_ON = re.compile(r"(?!(?:i|he|she|it|we|they|you)\b)[a-z]")
_MAX_MENTION_CHARS = 24
_OPENERS = re.escape("".join(QUOTES))
_MENTION_BEGUN = regex.compile(
    rf"[{_OPENERS}](?:{_MENTIONED}(?:[{re.escape(''.join(QUOTES.values()))}][ (]{{0,2}})?)?\Z"
)


def line_label(buffer: str, end: int, done: int, before: str, whole: bool = True) -> int:
    """Where the label of a line that ends at `end` begins; `end` without one. Unless `whole`, a begun label counts.

    done: the buffer's text before was handed on; before: its last character.
    """
    start = max(buffer.rfind("\n", done, end) + 1, done)
    if (start == done and before not in ("", "\n")) or end - start > _MAX_LABEL_CHARS:
        return end
    return start if _LABEL.fullmatch(buffer, start, end, partial=not whole) else end


def names_a_text(left: str) -> bool:
    """True when a label ends `left` that announces a text in another language, or a title."""
    return _OF_TEXT.search(left) is not None


def ends_line(buffer: str, at: int) -> bool:
    return _LINE_RESTS.match(buffer, at) is not None


def number_before(buffer: str, end: int, done: int) -> int:
    """Where the number right before `end` begins; `end` without one."""
    found = _NUMBER_BEFORE.search(buffer, max(done, end - _MAX_NUMBER_CHARS), end)
    return found.start() if found else end


def number_after(buffer: str, at: int) -> int:
    """Where the number at `at` ends that closes the sentence before; `at` without one."""
    found = _NUMBER_AFTER.match(buffer, at)
    return found.end() if found else at


def joint_after(buffer: str, at: int) -> int:
    """Where the dash or slash at `at` ends; `at` without one."""
    found = _JOINT_AFTER.match(buffer, at)
    return found.end() if found else at


def joint_before(buffer: str, end: int, done: int) -> int:
    """Where the comma, semicolon or dash before `end` begins; `end` without one."""
    found = _JOINT.search(buffer, max(done, end - MAX_JOINT_CHARS), end)
    return found.start() if found else end


def encloses_in_dashes(buffer: str, start: int, end: int, at: int) -> bool:
    """True when a dash is at `at`, and one in the joint from `start` to `end`."""
    dash = _DASH.match(buffer, at)
    return dash is not None and dash.group()[-1] in buffer[start:end]


def first_mention(buffer: str, end: int, done: int) -> int:
    """Where quoted Korean words right before `end` begin, with which the sentence there starts; `end` without any."""
    found = _FIRST_MENTION.search(buffer, max(done, end - _MAX_MENTION_CHARS), end)
    bracket = buffer[end : end + 1] == "("
    return found.start() if found and _GOES_ON.match(buffer, end + bracket) else end


def mention_begun(buffer: str, end: int, done: int) -> int:
    """Where quoted Korean words before `end` begin, with which a foreign sentence may start; `end` without any."""
    found = _MENTION_BEGUN.search(buffer, max(done, end - _MAX_MENTION_CHARS), end)
    return int(found.start()) if found else end
