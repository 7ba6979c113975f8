"""How a text is written: sentence length, how its sentences end, and which genre its words belong to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import regex

from mlx_loopai.text.hangul import nfc

# What ends a Korean sentence, longest first: the ending a reader hears, not a morpheme analysis.
ENDINGS = (
    "습니다", "습니까", "입니다", "입니까", "십시오", "세요", "네요", "군요", "지요", "어요", "아요", "예요", "에요",
    "는다", "았다", "었다", "였다", "한다", "이다", "다", "까", "요", "죠", "지", "네", "군", "라", "자", "니", "나", "어", "아",
)  # fmt: skip
_SENTENCE = regex.compile(r"[^.!?。…\n]+[.!?。…]*")
_NOT_LETTERS = regex.compile(r"[^\p{Hangul}]+$")

# Words that belong to one genre more than to the others; written for this project, stems without endings.
GENRE_WORDS: dict[str, tuple[str, ...]] = {
    "판타지": ("마법", "용", "드래곤", "요정", "마왕", "검사", "주문", "왕국", "던전", "엘프", "마나", "지팡이", "기사단", "예언"),
    "로맨스": ("사랑", "설레", "고백", "연인", "첫눈", "두근", "데이트", "키스", "그리움", "이별", "약혼", "청혼", "품에"),
    "동화": ("옛날", "토끼", "호랑이", "임금님", "공주", "왕자", "할머니", "숲속", "착한", "욕심", "다람쥐", "도깨비", "행복하게"),
    "추리": ("탐정", "범인", "단서", "사건", "알리바이", "살인", "용의자", "수사", "증거", "형사", "지문", "추리", "목격자"),
    "공포": ("귀신", "피투성이", "비명", "어둠", "저주", "시체", "소름", "공포", "악몽", "무덤", "핏자국", "괴물", "유령"),
    "SF": ("우주선", "로봇", "외계", "인공지능", "행성", "은하", "사이보그", "항성", "복제", "궤도", "안드로이드", "홀로그램"),
    "무협": ("검법", "무림", "강호", "내공", "문파", "사부", "협객", "장문인", "비급", "경공", "절정고수", "마교", "초식"),
    "역사": ("조선", "임금", "신하", "고려", "전쟁터", "장군", "궁궐", "상궁", "어명", "백성", "의병", "한양", "전하"),
    "수필": ("문득", "나는", "생각하", "일상", "산책", "커피", "추억", "어머니", "계절", "마음", "돌아보", "살아가"),
    "시": ("바람", "별", "꽃잎", "노래", "그대", "하늘", "눈물", "달빛", "강물", "그리운", "새벽", "이슬"),
}  # fmt: skip


@dataclass(frozen=True)
class Sentences:
    """`count` sentences; mean and standard deviation of their characters; `ending_bits`: entropy of their endings.

    A text that ends every sentence alike has 0 bits.
    """

    count: int
    mean_chars: float
    deviation_chars: float
    ending_bits: float


def sentences(texts: Iterable[str]) -> Sentences:
    """Sentence figures over all texts together; zeros without a sentence."""
    found = [part.strip() for text in texts for part in _SENTENCE.findall(nfc(text)) if ending(part)]
    if not found:
        return Sentences(0, 0.0, 0.0, 0.0)
    lengths = [len(part) for part in found]
    mean = sum(lengths) / len(lengths)
    deviation = math.sqrt(sum((length - mean) ** 2 for length in lengths) / len(lengths))
    return Sentences(len(found), mean, deviation, _entropy(Counter(map(ending, found))))


def ending(sentence: str) -> str:
    """The ending of a sentence: one of `ENDINGS`, else its last syllable; "" without Hangul at its end."""
    core = _NOT_LETTERS.sub("", sentence)
    if not core:
        return ""
    return next((form for form in ENDINGS if core.endswith(form)), core[-1])


def genre_scores(text: str) -> dict[str, float]:
    """Genre -> share of the genre words found in the text that belong to it; empty when it holds none.

    Counts words that begin with a stem of `GENRE_WORDS`. It is a rough guide for stories of several paragraphs and says
    nothing about quality: a fantasy story without a word of the list has no score.
    """
    words = regex.findall(r"[\p{Hangul}A-Z]+", nfc(text))
    counts = {genre: sum(word.startswith(stems) for word in words) for genre, stems in GENRE_WORDS.items()}
    total = sum(counts.values())
    return {genre: count / total for genre, count in counts.items() if count}


def genre_fit(text: str, genre: str) -> float:
    """Share of the text's genre words that belong to `genre`, in [0, 1].

    Raises: KeyError for a genre that is not in `GENRE_WORDS`.
    """
    if genre not in GENRE_WORDS:
        raise KeyError(genre)
    return genre_scores(text).get(genre, 0.0)


def genre_named(request: str) -> str | None:
    """The genre that a request names; None where it names none, or several."""
    named = [genre for genre in GENRE_WORDS if len(genre) > 1 and genre in request]
    return named[0] if len(named) == 1 else None


def _entropy(counts: Counter[str]) -> float:
    total = sum(counts.values())
    return -sum(count / total * math.log2(count / total) for count in counts.values())
