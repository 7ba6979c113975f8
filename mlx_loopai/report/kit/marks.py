"""Marks foreign scripts, markup and emoji in a model's answers, so that a reader sees them at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import regex

from mlx_loopai.report.kit.elements import Html, code_point, element, is_hidden, join
from mlx_loopai.text.hangul import nfc
from mlx_loopai.text.measures import is_looping, json_shaped, purity
from mlx_loopai.text.policy import Policy
from mlx_loopai.text.scripts import EMOJI, TEXT_SYMBOLS, Script, script_of
from mlx_loopai.text.words import foreign_spans

# Kind of mark -> its name in the legend, in English and Korean; also its class in the style sheet.
KINDS = {
    "han": ("Han", "한자"),
    "kana": ("Kana", "가나"),
    "cyrillic": ("Cyrillic", "키릴 문자"),
    "script": ("Other script", "그 밖의 문자"),
    "latin": ("Foreign word", "외국어 낱말"),
    "markup": ("HTML or code fence", "HTML·코드 블록"),
    "emoji": ("Emoji", "이모지"),
    "hidden": ("Hidden character", "숨은 문자"),
}
_OWN_KIND = {Script.HAN: "han", Script.KANA: "kana", Script.CYRILLIC: "cyrillic", Script.LATIN: "latin"}
_TAG = regex.compile(r"</?[A-Za-z][^<>\n]{0,200}>|<!--|-->")
_FENCE = regex.compile(r"```[A-Za-z]*")
_HANGUL = regex.compile(r"\p{Hangul}")
_KOREAN_SHARE = 0.5


@dataclass(frozen=True)
class Marked:
    """A marked answer. html: escaped text with marks; kinds: runs of each kind; faults: what is wrong in its form."""

    html: Html
    kinds: dict[str, int]
    faults: tuple[str, ...]


def is_korean(text: str) -> bool:
    """True when half of the letters are Hangul: then foreign words in an answer are worth marking."""
    return purity(text) >= _KOREAN_SHARE


def language(text: str) -> str | None:
    """The `lang` attribute for an element with `text`, so that Han characters among Hangul get Korean glyphs."""
    return "ko" if _HANGUL.search(text) else None


def marked(answer: str, korean: bool, json: bool = False) -> Marked:
    """`answer` with foreign scripts, markup, emoji and hidden characters marked.

    korean: whether an answer in Korean was expected; then foreign Latin words and code fences are marked too, except
        names and acronyms. json: whether JSON was asked for, or taught; elsewhere that form is a fault.
    """
    text = nfc(answer.replace("\r\n", "\n").replace("\r", "\n"))
    kinds: Counter[str] = Counter()
    parts: list[Html | str] = []
    for kind, piece in _runs(text, _classes(text, korean)):
        if kind == "hidden":
            piece = code_point(piece)
        if kind:
            kinds[kind] += 1
            parts.append(element("mark", piece, class_=f"k-{kind}", title=" · ".join(KINDS[kind])))
        else:
            parts.append(piece)
    return Marked(join(parts), dict(kinds), _faults(text, json))


def _classes(text: str, korean: bool) -> list[str]:
    """The kind of every character, "" for those that are not marked."""
    found = [""] * len(text)
    for start, end in foreign_spans(text, Policy(latin="acronyms" if korean else "keep")):
        kind = "script"
        for index in range(start, end):
            script = script_of(text[index])
            if script.is_letter:
                kind = _OWN_KIND.get(script, "script")
            found[index] = kind
    for match in EMOJI.finditer(text):
        if match.group() not in TEXT_SYMBOLS:
            found[match.start()] = "emoji"
    # A code fence is a fault only where an answer in Korean was expected.
    for match in chain(_TAG.finditer(text), _FENCE.finditer(text) if korean else ()):
        found[match.start() : match.end()] = ["markup"] * (match.end() - match.start())
    return ["hidden" if is_hidden(char) else kind for char, kind in zip(text, found, strict=True)]


def _runs(text: str, kinds: list[str]) -> Iterator[tuple[str, str]]:
    """(kind, piece) of neighbouring characters of one kind; hidden characters stay alone."""
    start = 0
    for end in range(1, len(text) + 1):
        if end == len(text) or kinds[end] != kinds[start] or kinds[start] == "hidden":
            yield kinds[start], text[start:end]
            start = end


def _faults(text: str, json: bool) -> tuple[str, ...]:
    if not text.strip():
        return ("empty",)
    found = {"JSON": not json and json_shaped(text), "loop": is_looping(text)}
    return tuple(name for name, holds in found.items() if holds)
