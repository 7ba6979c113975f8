"""How much more frequent a word is in another language than in Korean text, from the word counts of `wordfreq`."""

from __future__ import annotations

from functools import cache

# Both small lists end at one word in a million: a word that Korean text does not hold counts as just below that.
_FLOOR_ZIPF = 3.0
_KOREAN, ENGLISH, CHINESE = "ko", "en", "zh"
_GRAMMATICAL_ZIPF = 5.7
_VERB_ZIPF, _PAST_ZIPF = 4.4, 4.6
# Twenty-five whole lists would take 150 MB, and their rare words hardly matter.
_LEAST_ZIPF = 4.0
# Plurals of nouns are about a third as frequent as the nouns; "plurals" of adjectives are typing errors.
_RARE_PLURAL = 1.2
# The languages with Latin letters of which wordfreq has counts, the ones that models write most first.
OTHER_LATIN_LANGUAGES = ("es fr de pt it nl pl tr vi id sv cs da nb fi ro hu ca sk sl sh lt lv is fil ms").split()


def odds(word: str, language: str = ENGLISH) -> float:
    """log10 of the ratio of the frequency of `word` (lower case) in `language` to that in Korean text; 0.0 when rare.

    Examples: `suddenly` 1.7, `because` 2.5 (a sentence of such words is English); `trait` 0.7, `love` 1.0 (words that
    are rare, or that Korean text has too).

    Source: wordfreq (Speer 2022); its Korean counts include the Latin words of Wikipedia, news, web and subtitles.
    """
    zipf = _zipf(language).get(word)
    if zipf is None:
        return 0.0
    return max(0.0, zipf - max(_FLOOR_ZIPF, _zipf(_KOREAN).get(word, 0.0)))


def is_grammatical(word: str) -> bool:
    """True for one of the two hundred words that English writes most: `the`, `she`, `now`, and some nouns."""
    return _zipf(ENGLISH).get(word, 0.0) >= _GRAMMATICAL_ZIPF


def is_common_past(word: str) -> bool:
    """True for `walked`, a past of everyday English; False for `nested` and for `need`."""
    zipf = _zipf(ENGLISH)
    stem = word.removesuffix("ed")
    known = any(zipf.get(base, 0.0) >= _VERB_ZIPF for base in (stem, f"{stem}e"))
    return stem != word and len(stem) > 2 and known and zipf.get(word, 0.0) >= _PAST_ZIPF


def is_english_adjective(word: str) -> bool:
    """True for `quiet` and `gentle`, of which English hardly writes a plural; False for `night`, and for no word."""
    zipf = _zipf(ENGLISH)
    return word in zipf and zipf[word] - zipf.get(f"{word}s", 0.0) > _RARE_PLURAL


def commonest(language: str, count: int) -> list[str]:
    """The `count` most frequent words of a language, the most frequent first; Chinese ones are simplified."""
    from wordfreq import top_n_list

    return list(top_n_list(language, count, wordlist="small"))


@cache
def _zipf(language: str) -> dict[str, float]:
    """word -> Zipf frequency (log10 of its count per billion words); for other languages, frequent words only."""
    # It takes 0.2 s to import, and most Korean text needs none of it.
    from wordfreq import available_languages, read_cBpack

    # Bin n holds the words of frequency 10^(-n / 100).
    bins = read_cBpack(available_languages("small")[language])
    least = 0.0 if language in (_KOREAN, ENGLISH, CHINESE) else _LEAST_ZIPF
    return {word: zipf for number, words in enumerate(bins) if (zipf := 9.0 - number / 100) >= least for word in words}
