"""Searches an answer for a value: as a whole word, which Korean particles may follow, or as a number."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import regex

from mlx_loopai.text.hangul import nfc

_PARTICLES = (
    "에서는 에서도 에서 에게 에는 에도 에 께서 께 한테 으로 로 은 는 이 가 을 를 의 와 과 "
    "이랑 랑 도 만 부터 까지 처럼 보다 하고 이나 나 요"
)
_COPULA = (
    "입니다 이에요 예요 이예요 이었습니다 였습니다 이었어요 였어요 이지요 지요 이죠 죠 이네요 네요 이랍니다 랍니다 "
    "이다 다 이야 야 이며 며 이고 고 인데 이라고 라고 이라는 라는 이라 라 이란 란 일 인"
)
_TAIL = rf"(?:{'|'.join(_PARTICLES.split())})*(?:{'|'.join(_COPULA.split())})?"
_WORD_START = regex.compile(r"(?<![\p{L}\p{M}\p{N}])(?<![\p{L}\p{N}][-.,])")
_WORD_END = regex.compile(rf"(?:{_TAIL})(?![\p{{L}}\p{{M}}\p{{N}}])(?!-[\p{{L}}\p{{N}}])")
_NUMBER = regex.compile(r"(?:(?<![0-9])[-−])?[0-9]+(?:[.,][0-9]+)*")


@lru_cache(maxsize=4096)
def folded(text: str) -> str:
    """`text` in the form in which texts are compared: NFC, case folded, each gap one space."""
    return " ".join(nfc(text).casefold().split())


def stands(value: str, text: str) -> bool:
    """Whether `value` is a word of its own in `text`."""
    return next(_places(value, text), None) is not None


def without(value: str, text: str) -> str:
    """`text` with every `value` that is a word of its own taken out."""
    kept, start = [], 0
    for place in _places(value, text):
        kept.append(text[start:place])
        start = place + len(value)
    return "\0".join([*kept, text[start:]])


def begins_word(stem: str, text: str) -> bool:
    """Whether a word of `text` begins with `stem`; anything may follow: 사과 in 사과하면, 저축 in 저축해."""
    place = text.find(stem)
    while place >= 0 and not _WORD_START.match(text, place):
        place = text.find(stem, place + 1)
    return place >= 0


@lru_cache(maxsize=4096)
def numbers(text: str) -> tuple[str, ...]:
    """The numbers in `text`, in order, as they are written."""
    return tuple(_NUMBER.findall(text))


def _places(value: str, text: str) -> Iterator[int]:
    """Places where `value` is a word of its own in `text`; Korean particles may follow it."""
    place = text.find(value)
    while place >= 0:
        if _WORD_START.match(text, place) and _WORD_END.match(text, place + len(value)):
            yield place
        place = text.find(value, place + len(value))
