"""Patterns of web addresses, with the Hangul that hosts and paths may hold, and of Korean words that belong to them."""

from __future__ import annotations

import re

import regex

# Hangul counts only if the address goes on after it. A label has at most 63 characters (RFC 1035). That, and a limit on
# signs in a row, bound how much text after an address must be seen to know where it ends.
_LABEL = r"[A-Za-z0-9\-가-힣]{1,63}+"
# The top-level names in Hangul; any other Hangul right behind a host belongs to the sentence: naver.com에서.
_HANGUL_TOP = r"(?:한국|닷컴|닷넷|삼성)(?=[/:?#]|(?![가-힣]))"
_HOST = rf"(?:{_LABEL}\.(?=[A-Za-z0-9\-가-힣]))*+(?:{_HANGUL_TOP}|[A-Za-z0-9\-]++)(?::\d++)?"
_SIGN = r"[\-._~:/?#\[\]@!$&'*+,;=%]"
# Hangul in a path follows a sign; right after a letter it is a particle, unless more of the path follows it.
_HANGUL_PART = r"(?:(?<=[\-._~:/?#@!$&'*+,;=%(])[가-힣]++|[가-힣]{1,10}+(?=[\-_/=&#%]))"
_BRACKETS = r"\((?:[A-Za-z0-9_\-,.%]{0,40}+|[A-Za-z0-9_\-가-힣,.%]{0,10}+)\)"
_PATH = rf"(?:[/?#](?:{_SIGN}{{1,32}}+(?!{_SIGN})|[A-Za-z0-9]++|{_HANGUL_PART}|{_BRACKETS})*)"
# The last character is not punctuation: in "(http://a.kr/b)." the bracket and the full stop belong to the sentence.
_ENDING = r"(?<=[A-Za-z0-9가-힣/=_&#~+\-)])\p{M}*+"
URL_PATTERN = rf"(?:(?i:https?|ftp)://|(?:www|WWW)\.)(?:{_HOST}{_PATH}?{_ENDING})?"
URL = regex.compile(URL_PATTERN)
# Every address holds one of these hints; and how an address begins, up to its hint.
_HINTS = ("://", "ww.", "WW.")
_SCHEME = regex.compile(r"(?:(?i:https?|ftp):|ww|WW)\Z")
_MAX_SCHEME_CHARS = len("https")
# As much text after an address as may belong to it or continue it.
AFTER_ADDRESS = regex.compile(r"[^`\n]{0,80}+")

_WORD_END = r"(?![^\W_])"
# With these the address is the sentence's predicate (`주소는 https://a.kr입니다`), which would be empty without it.
_PREDICATE = (
    r"이?라고[가-힣]{0,2}|이?라(?:며|면서|면)|이다|입니[다까]|이에요|예요|이었[가-힣]{1,3}|였[가-힣]{1,3}|"
    r"이며|이고|인데|이지만|임"
)
HELD = regex.compile(rf"[\"'”’」』》〉*_]{{0,8}}+ {{0,2}}(?:{_PREDICATE}){_WORD_END}")
# Removed with the address: its particle, and a word that needs the particle, as in 를 통해.
_PARTICLE = (
    r"(?:[을를](?: (?:통해서?|통한|통하여|이용해서?|이용하여|거쳐))?|"
    r"에(?: (?:따르면|의하면|따라|의해|대해서?|대한|관한))?|[와과](?: 같은| 같이)?|"
    r"(?:에서|으?로|에|까지|부터|으?로부터)(?:는|도|만|의)?|"
    r"은|는|이|가|의|도|만|처럼|보다|마다|밖에|이?나|이?라도|이?란|이?라는|이?라던)"
)
PARTICLE = regex.compile(rf" {{0,2}}(?P<form>{_PARTICLE}{_WORD_END})")
# Removed too: what joins it to another address, and a word that points to it.
_JOINING = r"(?: {0,2}(?:와|과|이?나|이?랑))?[ ,;/·|&]{0,8}+(?:(?:또는|혹은|및|그리고|이나|와|과) {1,4}+)?"
_POINTING = r" {0,2}(?:참조|참고|바로가기)(?=[)\]）〕\n]|\Z)"
HANGING = regex.compile(rf"{_JOINING}(?={URL_PATTERN})|(?: {{0,2}}{_PARTICLE}{_WORD_END})(?:{_POINTING})?|{_POINTING}|")

# A label or a bullet that announces an address on its line or in its brackets, and is useless without it.
_KIND = r"(?:공식|관련|참고|추천|원문|원본|자료|기사|이미지|사진|영상|동영상|다운로드|설치|인터넷|온라인|웹|자세한)"
_NAME = (
    r"(?:출처|링크|주소|사이트|웹사이트|홈페이지|페이지|누리집|블로그|채널|카페|계정|문서|자료|참고|참조|원문|바로가기|다운로드|"
    r"유튜브|인스타그램|페이스북|트위터|깃허브|위키백과|URL)"
)
_BULLET = r"(?:[\-*•▶►→☞■●◆·][ \t]++|\d{1,2}[.)][ \t]++)"
LABEL = regex.compile(
    rf"[ \t]*+(?:{_BULLET}|{_BULLET}?\*{{0,2}}(?:{_KIND} ?){{0,2}}{_NAME}(?: {_NAME})?\*{{0,2}}"
    r"(?: ?[:：]\*{0,2}| [\-–—→])[ \t]*)"
)
# With one of these right before it, an address follows a name, whose particle comes after both.
NAMED = regex.compile(rf"{_NAME} \Z")
_HANGUL = regex.compile("[가-힣]")
MAX_LABEL_CHARS = 40
LABEL_STARTS = "\n(（["
ENDS_LABELLED = regex.compile(r" {0,2}(?=[)\]）\n]|\Z)")

# git clone https://a.kr/b.git; Source: https://a.kr
_COMMAND_OR_LABEL = regex.compile(
    r"[ \t]*+(?:(?:[$>#] )?[a-z][\w\-]*+(?: [\w\-./='\"]++)*+ |[A-Za-z][\w \-]{0,30}+: ?)", regex.ASCII
)
MAX_COMMAND_CHARS = 400


def may_be_for_address(beginning: str) -> bool:
    """True for the beginning of a shell command or label whose line is useless without the address to come."""
    return beginning.isascii() and _COMMAND_OR_LABEL.fullmatch(beginning, partial=True) is not None


def is_for_address(before: str, after: str) -> bool:
    """True for a line that is useless without its address: a shell command or a label, with no Hangul after it."""
    return _COMMAND_OR_LABEL.fullmatch(before) is not None and not _HANGUL.search(URL.sub("", after))


def has_address(text: str) -> bool:
    """A quick check whether a search for `URL` may find something."""
    return "://" in text or "ww." in text or "WW." in text


def address_starts(text: str) -> list[int]:
    """Places where a search for `URL` may succeed, from left to right; as fast as a search for a few letters."""
    hints = sorted(hint.start() for sign in _HINTS if sign in text for hint in re.finditer(re.escape(sign), text))
    schemes = (_SCHEME.search(text, max(0, hint - _MAX_SCHEME_CHARS), hint + 1) for hint in hints)
    return [scheme.start() for scheme in schemes if scheme]
