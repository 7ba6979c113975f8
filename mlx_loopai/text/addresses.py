"""Web addresses in text, with the Hangul that hosts and paths may hold."""

from __future__ import annotations

import regex

# Hangul counts only where what comes after it says so; how much of it is looked through is bounded (`run_patterns`).
_LABEL = r"(?:[A-Za-z0-9\-]++|[가-힣]{1,10}+)++"
# The top-level names in Hangul; any other Hangul right behind a host belongs to the sentence: naver.com에서.
_HANGUL_TOP = r"(?:한국|닷컴|닷넷|삼성)(?=[/:?#]|(?![가-힣]))"
_HOST = rf"(?:{_LABEL}\.(?=[A-Za-z0-9\-가-힣]))*+(?:{_HANGUL_TOP}|[A-Za-z0-9\-]++)(?::\d++)?"
_SIGN = r"[\-._~:/?#\[\]@!$&'*+,;=%]"
# Hangul in a path stands behind a sign; right behind a letter it is a particle, unless more of the path follows it.
_HANGUL_PART = r"(?:(?<=[\-._~:/?#@!$&'*+,;=%(])[가-힣]++|[가-힣]{1,10}+(?=[\-_/=&#%]))"
_BRACKETS = r"\((?:[A-Za-z0-9_\-,.%]{0,40}+|[A-Za-z0-9_\-가-힣,.%]{0,10}+)\)"
_PATH = rf"(?:[/?#](?:{_SIGN}|[A-Za-z0-9]++|{_HANGUL_PART}|{_BRACKETS})*)"
# The last character is not punctuation: in "(http://a.kr/b)." the bracket and the full stop belong to the sentence.
_ENDING = r"(?<=[A-Za-z0-9가-힣/=_&#~+\-)])\p{M}*+"
URL_PATTERN = rf"(?i:(?:(?:https?|ftp)://|www\.)(?:{_HOST}{_PATH}?{_ENDING})?)"
URL = regex.compile(URL_PATTERN)
# As much behind an address as may say that more of it is one: what stands there up to the next space.
AFTER_ADDRESS = regex.compile(r"[^\s`\x01]{0,48}+")


def has_address(text: str) -> bool:
    """Whether a search for `URL` may find something: a quick look."""
    return "://" in text or "w." in text or "W." in text
