"""Web addresses in text, with the Hangul that hosts and paths may hold."""

from __future__ import annotations

import regex

_LABEL = r"[A-Za-z0-9\-가-힣]"
# The top-level names in Hangul; any other Hangul right behind a host belongs to the sentence: naver.com에서.
_HOST = rf"(?:{_LABEL}++\.)*+(?:(?:한국|닷컴|닷넷|삼성)(?=[/:?#]|(?![가-힣]))|[A-Za-z0-9\-]++)(?::\d++)?"
_SIGN = r"[\-._~:/?#\[\]@!$&'*+,;=%]"
# Hangul in a path stands behind a sign; right behind a letter it is a particle, unless more of the path follows it.
_HANGUL_PART = r"(?:(?<=[\-._~:/?#@!$&'*+,;=%(])[가-힣]++|[가-힣]++(?=[\-_/=&#%]))"
_PATH = rf"(?:[/?#](?:{_SIGN}|[A-Za-z0-9]++|{_HANGUL_PART}|\([A-Za-z0-9_\-가-힣,.%]*+\))*)"
# The last character is not punctuation: in "(http://a.kr/b)." the bracket and the full stop belong to the sentence.
_ENDING = r"(?<=[A-Za-z0-9가-힣/=_&#~+\-)])\p{M}*+"
URL_PATTERN = rf"(?i:(?:(?:https?|ftp)://|www\.)(?:{_HOST}{_PATH}?{_ENDING})?)"
URL = regex.compile(URL_PATTERN)


def has_address(text: str) -> bool:
    """Whether a search for `URL` may find something: a quick look."""
    return "://" in text or "w." in text or "W." in text
