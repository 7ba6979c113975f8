"""Hangul syllables, and the particles whose form depends on the final consonant.

Source: Unicode Standard, section 3.12 (Hangul syllable arithmetic); Korean orthography, rule of the euphonic particles.
"""

from __future__ import annotations

import unicodedata

import regex

INITIALS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
FINALS = ("", *"ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ")

_FIRST_SYLLABLE, _LAST_SYLLABLE = 0xAC00, 0xD7A3

# Form after a final consonant -> form after a vowel.
_PARTICLES = {
    "은": "는",
    "이": "가",
    "을": "를",
    "과": "와",
    "으로": "로",
    "으로서": "로서",
    "으로써": "로써",
    "으로부터": "로부터",
    "아": "야",
    "이야": "야",
    "이에요": "예요",
    "이었다": "였다",
    "이라": "라",
    "이라고": "라고",
    "이라는": "라는",
    "이란": "란",
    "이다": "다",
    "이며": "며",
    "이나": "나",
    "이랑": "랑",
    "이든": "든",
    "이든지": "든지",
    "이여": "여",
}

_DIGITS = dict(zip("0123456789", "영일이삼사오육칠팔구", strict=True))
_LETTER_NAMES = {"L": "ㄹ", "M": "ㅁ", "N": "ㄴ", "R": "ㄹ"}
_UNITS = {
    "kg": "킬로그램",
    "mg": "밀리그램",
    "km": "킬로미터",
    "cm": "센티미터",
    "mm": "밀리미터",
    "ml": "밀리리터",
    "kb": "킬로바이트",
    "mb": "메가바이트",
    "gb": "기가바이트",
}
_UNITS_AFTER_A_NUMBER = {"g": "그램", "m": "미터", "l": "리터", "t": "톤"}
_SYMBOLS = {"%": "퍼센트", "℃": "도", "°": "도", "㎏": "킬로그램", "㎞": "킬로미터", "㎝": "센티미터", "㎡": "제곱미터"}

_PARENTHESISED_END = regex.compile(r"(?<=\S)\s*[(（\[][^()（）\[\]]*+[)）\]]$")
_NUMBER_END = regex.compile(r"(?<![\d.,])\d++(?:,\d{3})*+$")
_LATIN_END = regex.compile(r"[A-Za-z]++$")
_SHORT_VOWEL_STOP = regex.compile(r"(?:^|[^aeiou])[aeiou]([kcpt])$|oo(k)$|[aeiou]c(k)$")
_STOPS = {"k": "ㄱ", "c": "ㄱ", "p": "ㅂ", "t": "ㅅ"}


def nfc(text: str) -> str:
    """`text` in Normalization Form C. Never NFKC: that turns ㅋㅠ into a syllable nobody wrote."""
    return unicodedata.normalize("NFC", text)


def is_syllable(char: str) -> bool:
    """True for one precomposed modern syllable (가-힣)."""
    return len(char) == 1 and _FIRST_SYLLABLE <= ord(char) <= _LAST_SYLLABLE


def decompose(syllable: str) -> tuple[str, str, str]:
    """Initial, vowel and final of a precomposed syllable as compatibility jamo; the final may be empty.

    Raises: ValueError when `syllable` is not one precomposed syllable.
    """
    if not is_syllable(syllable):
        raise ValueError(f"{syllable!r} is not one Hangul syllable between 가 and 힣")
    rest, final = divmod(ord(syllable) - _FIRST_SYLLABLE, len(FINALS))
    initial, vowel = divmod(rest, len(VOWELS))
    return INITIALS[initial], VOWELS[vowel], FINALS[final]


def compose(initial: str, vowel: str, final: str = "") -> str:
    """The precomposed syllable of three compatibility jamo: the inverse of `decompose`.

    Raises: ValueError when a jamo is not possible in its position.
    """
    if initial not in INITIALS or vowel not in VOWELS or final not in FINALS or not (initial and vowel):
        raise ValueError(f"no syllable is made of {initial!r}, {vowel!r} and {final!r}")
    index = (INITIALS.index(initial) * len(VOWELS) + VOWELS.index(vowel)) * len(FINALS) + FINALS.index(final)
    return chr(_FIRST_SYLLABLE + index)


def final_consonant(word: str) -> str:
    """The final consonant `word` is read with, as compatibility jamo; empty after a vowel or when nothing can be read.

    Closing quotes and punctuation are skipped, and so is a parenthesised gloss, because a particle follows the
    reading of the word itself: 사과(apple)는. Numbers are read in Sino-Korean, Latin capitals by letter name.
    """
    core = _spoken_core(nfc(word))
    if not core:
        return ""
    last = core[-1]
    if is_syllable(last):
        return decompose(last)[2]
    if last.isdigit() and last in _DIGITS:
        return decompose(_number_end(core))[2]
    if last in _SYMBOLS:
        return decompose(_SYMBOLS[last][-1])[2]
    if last in INITIALS or last in FINALS:
        return last
    return _latin_final(core)


def has_batchim(word: str) -> bool:
    """True when `word` is read with a final consonant, so that it takes 은, 이, 을, 과."""
    return final_consonant(word) != ""


def josa(word: str, pair: str) -> str:
    """`word` with the fitting particle of `pair`, for example `josa("물", "으로/로")` -> `"물로"`.

    `pair` names both forms in either order.
    Raises: ValueError for a pair that is not a Korean particle with two forms.
    """
    left, _, right = pair.partition("/")
    if _PARTICLES.get(left) == right:
        closed, opened = left, right
    elif _PARTICLES.get(right) == left:
        closed, opened = right, left
    else:
        known = ", ".join(f"{a}/{b}" for a, b in _PARTICLES.items())
        raise ValueError(f"{pair!r} is not a known pair of particles; use one of {known}")
    final = final_consonant(word)
    takes_closed = final != "" and not (closed.startswith("으로") and final == "ㄹ")
    return word + (closed if takes_closed else opened)


def _spoken_core(word: str) -> str:
    core = word.rstrip()
    while core:
        shorter = _PARENTHESISED_END.sub("", core)
        if shorter == core and core[-1] not in _SYMBOLS and unicodedata.category(core[-1])[0] in "PZS":
            shorter = core[:-1]
        if shorter == core:
            break
        core = shorter
    return core


def _number_end(core: str) -> str:
    """The last syllable of the number that ends `core`: 10 is 십, 300 is 백, 50000 is 만."""
    found = _NUMBER_END.search(core)
    digits = found.group().replace(",", "") if found else core[-1]
    zeros = len(digits) - len(digits.rstrip("0"))
    if zeros == 0 or zeros == len(digits):
        return _DIGITS[digits[-1]]
    if zeros < 4:
        return "십백천"[zeros - 1]
    return "만억조경"[min(zeros // 4, 4) - 1]


def _latin_final(core: str) -> str:
    found = _LATIN_END.search(core)
    if not found:
        return ""
    word, before = found.group(), core[: found.start()].rstrip()[-1:]
    unit = _UNITS.get(word.lower()) or (_UNITS_AFTER_A_NUMBER.get(word) if before.isdigit() else None)
    if unit:
        return decompose(unit[-1])[2]
    if word.isupper() or len(word) == 1:
        return _LETTER_NAMES.get(word[-1].upper(), "")
    return _loanword_final(word.lower())


def _loanword_final(word: str) -> str:
    """How an English word usually ends in Hangul: team 팀, style 스타일, shop 숍, but test 테스트."""
    stem = word[:-1] if regex.search(r"[lmn]e$", word) and len(word) > 3 else word
    if stem.endswith("ng"):
        return "ㅇ"
    if stem[-1] in "lmn":
        return {"l": "ㄹ", "m": "ㅁ", "n": "ㄴ"}[stem[-1]]
    stop = _SHORT_VOWEL_STOP.search(word)
    return _STOPS[next(letter for letter in stop.groups() if letter)] if stop else ""
