"""Looks at the text around a run of foreign text to decide whether the Korean sentence needs it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import regex

from mlx_loopai.text import binding
from mlx_loopai.text.edges import names_a_text
from mlx_loopai.text.frequency import CHINESE, is_grammatical, odds
from mlx_loopai.text.prose import is_clause
from mlx_loopai.text.run_patterns import CLOSER, EMPHASIS, HANGUL, QUOTES
from mlx_loopai.text.seams import SEAM
from mlx_loopai.text.units import Unit
from mlx_loopai.text.words import is_unit_or_acronym

_SENTENCE_ENDS = frozenset(".!?…:;~。！？：；\n")
_BEFORE_SENTENCE = frozenset(("", *_SENTENCE_ENDS))
# (웃음), [장면 1]
_DIRECTION = regex.compile(r"[(\[（〔][^()\[\]（）〔〕\n]{1,40}[)\]）〕][ \x00]*+\Z")
_WITHIN = frozenset(",、，")
_LIST_MARKS = "-+•·>"
_TRANSPARENT = " \t\r" + SEAM + EMPHASIS + _LIST_MARKS + "".join(CLOSER)
_HAN_LETTER = regex.compile(r"\p{Han}")
# How newspapers name countries: 韓·美, 北·中·러.
_SHORT_NAMES = regex.compile(r"\p{Han}(?:[·ㆍ・]\p{Han})++")
# 第1장; 1月 1日.
_NUMBERED = regex.compile(r"第\d{1,4}")
_COUNTERS = regex.compile(r"\p{Han}(?: ?\d{1,4}\p{Han})*")
# I am a boy. → 나는 소년이다; | apple | 사과 |
_PAIRED_AFTER = re.compile(r" {0,2}(?:→|⇒|=>?|\|) {0,2}[\"'“‘*]{0,2}[가-힣]")
_PAIRED_BEFORE = re.compile(r"[가-힣][.!?\"'”’*)]{0,3} {0,2}(?:→|⇒|=>?|\|) {0,2}[\"'“‘*]{0,2}\Z")
# A list of words: get up: 일어나다, - walk away - 떠나다
_LINE_BEGINS = re.compile(r"(?:\A|\n)[ \t]{0,12}(?:(?:[\-*+•·>]|\d{1,3}[.)])[ \t]{1,3})?[*_]{0,2}\Z")
_EXPLAINED = re.compile(r"[*_]{0,2}(?: {0,2}[:：]| {1,2}[—–\-])[*_]{0,2} {1,3}[~(]?[가-힣]")
_UNIT_LETTERS = 3
_MAX_TERM_WORDS = 3
_MAX_COMPOUND_WORDS = 2
_MAX_COLON_WORDS = 4
# 的 and 很 are words of Chinese; 中 and 故 are what Korean newspapers write.
_CHINESE_WORD_ODDS = 2.4


@dataclass(frozen=True, slots=True)
class Run:
    """A run and the text around it. Places are indices into the buffer.

    lead: openers and emphasis right before `start`; left: the kept text before them.
    mark, close: punctuation and closers right after `end`; `after` is where they end, `seen` where the lookahead ends.
    """

    start: int
    end: int
    lead: str
    left: str
    mark: str
    close: str
    after: int
    seen: int


def is_bound(buffer: str, run: Run, tail: Unit) -> bool:
    """True when Korean grammar, or a number, binds the last sentence of a run."""
    if binding.after_quote(buffer, run.after):
        return True
    if run.mark and not run.close:
        return False
    if binding.attached(buffer, run.after) or (not run.mark and binding.spaced(buffer, run.after)):
        return True
    if run.mark:
        return False
    follows_gloss = buffer[run.after : run.after + 1] in ("(", "（") and HANGUL.match(buffer, run.after + 1)
    if follows_gloss:
        return len(tail.words) <= _MAX_TERM_WORDS
    if _SHORT_NAMES.fullmatch(tail.text) and binding.before_word(buffer, run.end):
        return True
    if len(tail.words) > _MAX_COMPOUND_WORDS:
        return False
    attached = HANGUL.match(buffer, run.end) is not None
    if _NUMBERED.fullmatch(tail.text):
        return attached
    if _COUNTERS.fullmatch(tail.text) and run.left[-1:].isdigit():
        return True
    if _HAN_LETTER.search(tail.text):
        # One Hanja beside a word or a number is a part of it (前대통령, 출장中, 1人); some stand alone (총론 中).
        beside = attached or HANGUL.match(run.left[-1:]) is not None or run.left[-1:].isdigit()
        if binding.derived(buffer, run.end):
            return len(tail.words) == 1
        return len(tail.text) == 1 and (beside or odds(tail.text, CHINESE) < _CHINESE_WORD_ODDS)
    if attached:
        return tail.text.isascii()
    is_short = len(tail.text) <= _UNIT_LETTERS or is_unit_or_acronym(tail.text)
    return is_short and run.left.rstrip(" ")[-1:].isdigit()


def continues(left: str) -> bool:
    """True when a sentence goes on after `left`: its last sign ends none, and it is more than a stage direction."""
    last = left.rstrip(_TRANSPARENT)[-1:]
    direction = _DIRECTION.search(left)
    if direction and left[: direction.start()].rstrip(_TRANSPARENT)[-1:] in _BEFORE_SENTENCE:
        return False
    return last != "" and last not in _SENTENCE_ENDS


def ends_there(left: str) -> bool:
    """True when the sentence of `left` needs the end mark of the text after it: it goes on, and not with a comma."""
    return continues(left) and left.rstrip(_TRANSPARENT)[-1:] not in _WITHIN


def is_enclosed(buffer: str, run: Run, tail: Unit) -> bool:
    """True for a quotation or a title with Korean on its line, and for a term in emphasis."""
    lead, close = run.lead.rstrip(EMPHASIS), run.close.lstrip(EMPHASIS)
    # A quotation may go on in the next line.
    is_open = not close and buffer[run.after : run.after + 1] in ("", "\n")
    if lead and lead[-1] in QUOTES and (is_open or close[:1] == QUOTES[lead[-1]]):
        line_start = run.left.rfind("\n") + 1
        return bool(HANGUL.search(run.left, line_start) or HANGUL.search(buffer, run.after, run.seen))
    emphasised = run.lead[-1:] != "" and run.lead[-1:] in EMPHASIS and run.close[:1] == run.lead[-1:]
    return emphasised and not run.mark and not tail.start and len(tail.words) <= _MAX_TERM_WORDS


def is_paired(buffer: str, run: Run, tail: Unit) -> bool:
    """True for text paired with Korean by a label, an arrow, an equals sign or a table's cell, and for a quantity.

    영어: I love you. get up: 일어나다. 3 USD per person.
    """
    left = run.left + run.lead
    is_short = not tail.start and len(tail.words) <= _MAX_COLON_WORDS
    return (
        names_a_text(left)
        or _PAIRED_BEFORE.search(left) is not None
        or _PAIRED_AFTER.match(buffer, run.after, run.seen) is not None
        or (is_short and _is_quantity(left, tail.words[0]))
        or (
            is_short
            and tail.text[:1].islower()
            and _LINE_BEGINS.search(left) is not None
            and _EXPLAINED.match(buffer, run.end, run.seen) is not None
        )
    )


def _is_quantity(left: str, word: str) -> bool:
    """True when a number ends `left` and the word may be its unit."""
    is_unit = is_unit_or_acronym(word) or (len(word) <= _UNIT_LETTERS and not is_grammatical(word.lower()))
    return is_unit and left.rstrip(" ")[-1:].isdigit()


def is_term(run: Run, tail: Unit) -> bool:
    """True for text that explains a Korean word, in brackets or after a colon, and for a word near inline code."""
    if tail.start:
        return False
    if len(tail.words) == 1 and "`" in run.left:
        return True
    left = (run.left + run.lead).rstrip(" " + EMPHASIS)
    if not HANGUL.match(left[:-1].rstrip()[-1:]):
        return False
    if left[-1] == ":":
        return run.mark in (",", "") and not tail.text[:1].isupper() and len(tail.words) <= _MAX_COLON_WORDS
    return left[-1] in "(（" and not is_clause(tail.words)


def enclosing(lead: str, close: str) -> int:
    """How many openers before a run its closers close, from the innermost on."""
    n = 0
    for opener, closer in zip(reversed(lead), close, strict=False):
        if CLOSER.get(opener, opener if opener in EMPHASIS else "") != closer:
            break
        n += 1
    return n


def closes_inside(opener: str, text: str) -> bool:
    """True when `text` holds the closer of an `opener` before it."""
    if opener in EMPHASIS:
        return len(re.findall(rf"{re.escape(opener)}+", text)) % 2 == 1
    closer = CLOSER.get(opener, opener)
    return text.count(closer) > (text.count(opener) if opener != closer else text.count(closer) // 2 * 2)


def opens_inside(closer: str, text: str) -> bool:
    """True when `text` holds the opener of a `closer` after it."""
    openers = [opener for opener, one in CLOSER.items() if one == closer] or [closer]
    return any(
        text.count(opener) % 2 == 1 if opener == closer else text.count(opener) > text.count(closer)
        for opener in openers
    )
