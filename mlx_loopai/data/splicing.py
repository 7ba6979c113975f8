"""Makes preference pairs against language mixing: a clean Korean answer, and the same with Han or English words in it.

The text filter checks both: it finds nothing in the chosen answer, and foreign words in the rejected one.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import regex

from mlx_loopai.data.conversation import Record
from mlx_loopai.data.pairs import MadePairs, Pair
from mlx_loopai.text.filter import clean
from mlx_loopai.text.frequency import CHINESE, ENGLISH, commonest
from mlx_loopai.text.korean_only import STRICT, is_korean_only

# Korean texts write Hanja, which word counts of Chinese do not hold.
_HANJA = (
    "天氣", "時間", "朋友", "世界", "今天", "學生", "東西", "問題", "故事", "老師",
    "音樂", "春天", "可以", "因爲", "但是", "喜歡", "時候", "漂亮", "我們", "非常",
)  # fmt: skip
_COMMON = 1000  # of the commonest words of a language; a model that mixes languages writes such
_ENGLISH_WORD, _HAN_WORD = regex.compile(r"[a-z]{4,}"), regex.compile(r"\p{Han}{2,}")
_KOREAN_WORD = regex.compile(r"(?<!\S)[가-힣]{2,}")


def spliced_pairs(records: Sequence[Record], share: float, seed: int) -> MadePairs:
    """A pair for every record whose last answer is clean Korean; in the rejected one `share` of the words are foreign.

    One half of the pairs has Han words, the other English ones, at least one word in each pair. Both are drawn from the
    commonest words of wordfreq (Speer 2022), so that what is learnt is the script and not a few words. All seeded.
    """
    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    for number, record in enumerate(records):
        answer = record.messages[-1]
        problem = _problem(record)
        if problem:
            dropped[problem] += 1
            continue
        text = _spliced(answer.content, share, random.Random(f"{seed} {number}"))
        if "foreign" not in clean(text, STRICT).removed:
            dropped["the filter lets the foreign words pass"] += 1
            continue
        messages = (*record.messages[:-1], replace(answer, content=text))
        pairs.append(Pair(record, replace(record, messages=messages)))
    return MadePairs(tuple(pairs), dict(dropped))


def _problem(record: Record) -> str:
    """Why an answer cannot be the clean one of a pair, or ""."""
    answer = record.messages[-1]
    if record.kind != "chat" or answer.role != "assistant" or not answer.taught or answer.tool_calls:
        return "the row does not end with an answer"
    if not is_korean_only(answer.content):
        return "the answer is not clean Korean"
    return "" if _KOREAN_WORD.search(answer.content) else "the answer has no Korean word of two syllables"


def _spliced(text: str, share: float, rng: random.Random) -> str:
    """`text` with foreign words in place of that share of its words, at least one."""
    words = list(_KOREAN_WORD.finditer(text))
    chosen = rng.sample(words, max(1, round(share * len(words))))
    foreign = rng.choice((_han_words(), _english_words()))
    for word in sorted(chosen, key=lambda found: found.start(), reverse=True):
        # The particle goes too: with it the foreign word would look like a term, which the filter lets pass.
        text = text[: word.start()] + rng.choice(foreign) + text[word.end() :]
    return text


@cache
def _han_words() -> tuple[str, ...]:
    return _HANJA + tuple(filter(_HAN_WORD.fullmatch, commonest(CHINESE, _COMMON)))


@cache
def _english_words() -> tuple[str, ...]:
    """In lower case: with a capital a single word would pass as a name."""
    return tuple(filter(_ENGLISH_WORD.fullmatch, commonest(ENGLISH, _COMMON)))
