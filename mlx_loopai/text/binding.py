"""Korean grammar that binds a foreign word to its sentence: particles, the copula, quotatives, `하다` and `되다`.

These are closed classes. Attached to the word, any of them counts; after a space only forms that cannot be anything
else count (`이`, `만` and `한` are also words).

Source: 국립국어원, 한국어 어문 규범 (조사; 인용격 조사; 접미사 -하다, -되다).
"""

from __future__ import annotations

import re

# The longest form, in syllables, including what must be seen after it.
MAX_SYLLABLES = 9

_WORD_END = r"(?![^\W\d_])"
_ADVERBIAL = (
    r"에서|에게서?|에|께서?|한테서?|으로서?|으로써|으로부터|로서|로써|로부터|로|와|과|까지|부터|만|처럼|하고|보다|만큼|대로|밖에|뿐|마다|"
    r"이?라도|이?랑"
)
_CASE = (
    rf"은|는|이|가|을|를|의|도|{_ADVERBIAL}|"
    r"마저|조차|같이|씩|이?나|이?든지?|이?야|아|이?여|이?란|이?요|더러|[은는]?커녕"
)
_COPULA = (
    r"이?다|이?라(?:고|는|며|면|서|도|던|니)?|이?며|이?고|이?면|이?지만|이었[가-힣]{1,3}|였[가-힣]{1,3}|입니[다까]|이?에요|예요|"
    r"인(?:데|가|지|지라)?|일|임"
)
_VERB = r"(?:하|해|했|한|할|함|합|되|돼|됐|된|될|됨|됩|시키|시켜|시킨|시켰|시킵|당하|당했|당한)[가-힣]{0,5}"
_ATTACHED = re.compile(
    rf"(?:들|님|씨|쯤|끼리)?(?:(?:{_CASE})|(?:{_ADVERBIAL})(?:는|은|도|만|의|이|가|을|를|요|야|이다|입니다)|{_COPULA}|{_VERB}|들)"
    rf"{_WORD_END}"
)
_QUOTATIVE = r"이?라(?:고|는|며|면서|던|니)[가-힣]{0,2}|하(?:고|며|면서)[는도]?"
_AFTER_QUOTE = re.compile(rf" {{0,2}}(?:{_QUOTATIVE}){_WORD_END}")
_SPACED = re.compile(
    rf" {{1,2}}(?:{_QUOTATIVE}|를|을|은|는|의|에|에서|에게|로|으로|도|부터|까지|처럼|와(?![,!.~])|과|이라는|란|"
    r"이다|입니[다까]|이에요|예요|이었다|이었습니다|였다|였습니다|이며|인데|"
    r"하는|하다|합니다|했다|했습니다|했던|하면|하여|하게|하기|하세요|해요|하던|하려고|되는|된|되다|됩니다|되었다|되었습니다|됐다|되면|되어|"
    rf"시키[는다고며]|시켰다|시킨){_WORD_END}"
    # What is named so is an expression: There is/are 구문, Just do it 캠페인.
    r"| {1,2}(?:구문|구절|문구|문장|표현|숙어|속담|단어|명령어?|구호|슬로건|캠페인|논문)"
    rf"(?:{_CASE}|{_COPULA})?{_WORD_END}"
    # `가` is a verb too (가 보자); before another word than its auxiliaries it is the particle.
    r"| {1,2}가(?= (?![보봐봤본볼버있줘주준])[가-힣])"
)
_DERIVED = re.compile(
    rf"(?:히|적(?:인|으로|이[가-힣]{{0,2}})?|성|화|스럽[게다]|스러[운워]|롭[게다]|로[운이]){_WORD_END}"
)
_WORD_BEGINS = re.compile(r"[ ·ㆍ]?[가-힣]")


def attached(text: str, at: int) -> bool:
    """True when a particle, the copula or a form of `하다` is at `at` and ends the word."""
    return _ATTACHED.match(text, at) is not None


def derived(text: str, at: int) -> bool:
    """True when a suffix at `at` derives another word from the one before it: 非常히, 社會적."""
    return _DERIVED.match(text, at) is not None


def after_quote(text: str, at: int) -> bool:
    """True when a quotative such as `라고` is at `at`, attached or after a space: the words before are quoted."""
    return _AFTER_QUOTE.match(text, at) is not None


def spaced(text: str, at: int) -> bool:
    """True when, after a space at `at`, a form follows that certainly binds: crate 를, once upon a time 이라는."""
    return _SPACED.match(text, at) is not None


def before_word(text: str, at: int) -> bool:
    """True when a Korean word is at `at`, or follows a space or a middle dot there."""
    return _WORD_BEGINS.match(text, at) is not None
