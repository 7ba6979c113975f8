"""Finds hints of personal data in a text, such as phone and card numbers: a model should not learn them by heart."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_DIGIT = r"(?<![\d-])"
_END = r"(?![\d-])"
# Nine digits with at most one mark between two of them: no number below is shorter.
_LONG_NUMBER = re.compile(r"\d(?:[-. ]?\d){8}")


def personal_hints(text: str) -> Iterator[tuple[str, str]]:
    """(kind, the passage with most of it masked) for every hint; kinds are the keys of `PATTERNS`.

    A hint is not a proof: invented numbers match as well. Dates, prices and years do not.
    """
    # Most texts hold no long number, and one search shows it.
    numbers = _LONG_NUMBER.search(text) is not None
    for kind, (pattern, is_valid) in PATTERNS.items():
        if not ("@" in text if kind == _EMAIL else numbers):
            continue
        for match in pattern.finditer(text):
            if is_valid(match[0]):
                yield kind, _masked(match[0])


def _masked(passage: str) -> str:
    return passage[:2] + "".join("*" if char.isalnum() else char for char in passage[2:])


def _always(_passage: str) -> bool:
    return True


def _is_resident_number(passage: str) -> bool:
    """Whether it begins with a birthday; numbers given since October 2020 have no check digit to look at."""
    month, day = int(passage[2:4]), int(passage[4:6])
    return 1 <= month <= 12 and 1 <= day <= 31


def _is_card(passage: str) -> bool:
    """Luhn's check digit (ISO/IEC 7812-1)."""
    digits = [int(char) for char in reversed(passage) if char.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


_EMAIL = "email"
PATTERNS: dict[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "resident number": (re.compile(rf"{_DIGIT}\d{{6}}-[1-8]\d{{6}}{_END}"), _is_resident_number),
    "phone": (re.compile(rf"{_DIGIT}0(?:1[016789]|2|[3-6]\d|70|50\d)[-. ]?\d{{3,4}}[-. ]\d{{4}}{_END}"), _always),
    # The look-behind lets a match begin at the first character of a run only, so that a run is read once.
    _EMAIL: (
        re.compile(r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]++@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"),
        _always,
    ),
    "card": (re.compile(rf"{_DIGIT}\d{{4}}([- ]?)\d{{4}}\1\d{{4}}\1\d{{4}}{_END}"), _is_card),
}
