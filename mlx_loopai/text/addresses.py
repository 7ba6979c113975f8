"""Web addresses in text, with the Hangul that hosts and paths may hold, and the Korean words that hang on them."""

from __future__ import annotations

import regex

# Hangul counts only if what follows it makes it an address; how far that is looked for is bounded (`run_patterns`).
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
# As much behind an address as may hang on it: what stands there at once, and three words.
AFTER_ADDRESS = regex.compile(r"[^\s`\x01]{0,48}+(?:[ \x00,]{1,3}+[^\s`\x01]{1,12}+){0,3}+[ \x00]{0,2}+")

_WORD_END = r"(?![\x00]*[^\W_])"
# With these the address is what the sentence says (`주소는 https://a.kr입니다`): without it, it would say nothing.
_PREDICATE = (
    r"이?라고[가-힣]{0,2}|이?라(?:며|면서|면)|이다|입니[다까]|이에요|예요|이었[가-힣]{1,3}|였[가-힣]{1,3}|"
    r"이며|이고|인데|이지만|임"
)
HELD = regex.compile(rf"[\"'”’」』》〉*_\x00]*+[ \x00]{{0,2}}(?:{_PREDICATE}){_WORD_END}")
# Without the address its particle would stand alone, and so would a word that needs the particle: 를 통해.
_PARTICLE = (
    r"(?:[을를](?: (?:통해서?|통한|통하여|이용해서?|이용하여|거쳐))?|"
    r"에(?: (?:따르면|의하면|따라|의해|대해서?|대한|관한))?|[와과](?: 같은| 같이)?|"
    r"(?:에서|으?로|에|까지|부터|으?로부터)(?:는|도|만|의)?|"
    r"은|는|이|가|의|도|만|처럼|보다|마다|밖에|이?나|이?라도|이?란|이?라는|이?라던)"
)
PARTICLE = regex.compile(rf"[ \x00]{{0,2}}(?P<form>{_PARTICLE}{_WORD_END})")
# So would what joins it to another address, and a word that points to it.
_JOINING = r"(?:[ \x00]{0,2}(?:와|과|이?나|이?랑))?[ \x00,;/·|&]*+(?:(?:또는|혹은|및|그리고|이나|와|과)[ \x00]++)?"
_POINTING = r"[ \x00]{0,2}(?:참조|참고|바로가기)(?=[)\]）〕\n\x01]|\Z)"
HANGING = regex.compile(
    rf"{_JOINING}(?={URL_PATTERN})|(?:[ \x00]{{0,2}}{_PARTICLE}{_WORD_END})(?:{_POINTING})?|{_POINTING}|"
)

# What announces an address on its line or in its brackets, and announces nothing without it: a label, or a bullet.
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
NAMED = regex.compile(rf"{_NAME}[ \x00]\Z")
_HANGUL = regex.compile("[가-힣]")
MAX_LABEL_CHARS = 40
LABEL_STARTS = "\n\x01(（["
ENDS_LABELLED = regex.compile(r"[ \x00]{0,2}(?=[)\]）\n\x01]|\Z)")

# git clone https://a.kr/b.git; Source: https://a.kr
_COMMAND_OR_LABEL = regex.compile(r"(?:[$>#] )?[a-z][\w\-]*+(?: [\w\-./='\"]++)*+ |[A-Za-z][\w \-]{0,30}+: ?")


def is_for_address(line: str) -> bool:
    """True for a line without Hangul that is nothing without its address: a command of a shell, or a label."""
    found = URL.search(line)
    return (
        found is not None
        and _COMMAND_OR_LABEL.fullmatch(line, 0, found.start()) is not None
        and not _HANGUL.search(URL.sub("", line))
    )


def has_address(text: str) -> bool:
    """Whether a search for `URL` may find something: a quick look."""
    return "://" in text or "w." in text or "W." in text
