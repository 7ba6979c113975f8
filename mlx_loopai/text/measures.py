"""Measures of generated text: how Korean it is, and how much it repeats itself.

All bring the text to NFC first and return plain numbers. A rate over no texts is 0.0, so that it fails every floor.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import regex

from mlx_loopai.text.hangul import nfc
from mlx_loopai.text.policy import STRICT_POLICY, Policy
from mlx_loopai.text.scripts import Script, script_counts
from mlx_loopai.text.words import foreign_words

_MIN_WORDS_PER_LINE = 5
_MIN_HANGUL_SHARE = 0.5
_ENGLISH_WORD = regex.compile(r"(?<![\p{L}\p{M}\p{N}'’-])[a-z]{4,}+(?![\p{L}--\p{Hangul}]|[\p{M}\p{N}])", regex.V1)

_MIN_REPEATS = 4
_MAX_PHRASE_WORDS = 60
_MAX_PHRASE_CHARS = 40
_MIN_LOOP_CHARS = 24
_MIN_SENTENCE_CHARS = 8
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")
_SENTENCE_END = regex.compile(r"[.!?。…]+\s+|\s*\n\s*")
_LIST_MARK = regex.compile(r"^(?:\(?\d+[.)]|[-*•·])\s*")

_JSON_START = regex.compile(
    r"\{\s*(?:[\"'}]|$)|\[\s*(?:[\"'{]|$)|```[ \t]*json\b|```[ \t]*\n?\s*(?:\{|\[\s*[\"'{])", regex.I
)


def purity(text: str) -> float:
    """Hangul letters / letters, in [0, 1]; 0.0 for a text without letters, which shows no Korean.

    Digits, punctuation, symbols and emoji do not count, so that clean prose has purity 1.0.
    """
    counts = script_counts(nfc(text))
    letters = _letters(counts)
    return counts.get(Script.HANGUL, 0) / letters if letters else 0.0


def purity_original(text: str) -> float:
    """Hangul letters / characters that are not white space, in [0, 1]: the figure of older reports.

    It counts digits and punctuation against a text. It is kept for comparison with those reports; prefer `purity`.
    """
    normal = nfc(text)
    n_visible = sum(not char.isspace() for char in normal)
    return script_counts(normal).get(Script.HANGUL, 0) / n_visible if n_visible else 0.0


def foreign_per_1000_letters(text: str) -> dict[str, float]:
    """Letters of each script but Hangul per 1,000 letters: script name -> rate, only scripts that occur."""
    counts = script_counts(nfc(text))
    letters = _letters(counts)
    return {
        name: 1000 * count / letters
        for name, count in counts.items()
        if Script(name).is_letter and name != Script.HANGUL
    }


def passes_lines(text: str) -> bool:
    """True when in every line of at least five words half of the letters or more are Hangul.

    A text without such a line is judged as one line; a text without letters fails.
    """
    normal = nfc(text)
    lines = [line for line in normal.splitlines() if len(line.split()) >= _MIN_WORDS_PER_LINE]
    return all(purity(line) >= _MIN_HANGUL_SHARE for line in lines or [normal])


def line_pass_rate(texts: Sequence[str]) -> float:
    """Share of the texts that are Korean line by line (LPR), in [0, 1].

    Source: Marchisio et al. 2024, "Understanding and Mitigating Language Confusion in LLMs". Ours differs in two ways:
    a rule on scripts replaces their language identifier, which does not notice single foreign words, and short texts
    count.
    """
    return sum(map(passes_lines, texts)) / len(texts) if texts else 0.0


def word_pass_rate(texts: Sequence[str], english_words: Collection[str] | None = None) -> float:
    """Among texts that pass line by line, the share without a lower-case English word of more than 3 letters (WPR).

    In [0, 1]. With `english_words` only these count, as in the source; without, every lower-case ASCII word of that
    length. Source: Marchisio et al. 2024. Han, kana and Cyrillic do not count there: see `word_pass_rate_ko`.
    """
    passing = [nfc(text) for text in texts if passes_lines(text)]
    if not passing:
        return 0.0
    known = None if english_words is None else frozenset(english_words)
    clean = sum(not any(known is None or word in known for word in _ENGLISH_WORD.findall(text)) for text in passing)
    return clean / len(passing)


def word_pass_rate_ko(
    texts: Sequence[str], prompts: Sequence[str] | None = None, policy: Policy = STRICT_POLICY
) -> float:
    """Share of the texts without a word in a script that `policy` does not allow, in [0, 1].

    The policy allows Hanja glosses, acronyms and units; words of the text's own prompt pass as quotations. Unlike
    `word_pass_rate` this is over all texts. A text without letters fails.
    Raises: ValueError when `prompts` and `texts` differ in number.
    """
    if prompts is not None and len(prompts) != len(texts):
        raise ValueError(f"{len(prompts)} prompts for {len(texts)} texts; give one prompt per text")
    if not texts:
        return 0.0
    passed = 0
    for index, text in enumerate(texts):
        normal = nfc(text)
        quoted = nfc(prompts[index]) if prompts is not None else ""
        has_letters = _letters(script_counts(normal)) > 0
        passed += has_letters and all(word in quoted for word in foreign_words(normal, policy))
    return passed / len(texts)


def distinct_n(texts: Iterable[str], n: int) -> float:
    """Distinct character n-grams / character n-grams over all texts together, in [0, 1]; 0.0 when there is none.

    White space is collapsed first. Characters instead of words: Korean endings make nearly every word distinct.
    Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models".
    Raises: ValueError when n < 1.
    """
    grams = [gram for text in texts for gram in _character_ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def rep_n(text: str, n: int) -> float:
    """1 - distinct character n-grams / character n-grams of one text, in [0, 1]; 0.0 when it is shorter than n.

    Source: Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training" (seq-rep-n), on characters.
    Raises: ValueError when n < 1.
    """
    grams = _character_ngrams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def longest_repeat(text: str) -> str:
    """The longest substring that occurs at least twice (occurrences may overlap), after NFC; empty when none does.

    Linear in the length of the text.
    Source: Blumer et al. 1985, the suffix automaton: a state that others link to stands for strings seen twice.
    """
    normal = nfc(text)
    moves: list[dict[str, int]] = [{}]
    lengths, links = [0], [-1]
    ends = [0]
    last = 0
    for position, char in enumerate(normal, start=1):
        state = len(moves)
        moves.append({})
        lengths.append(lengths[last] + 1)
        links.append(0)
        ends.append(position)
        walk = last
        while walk != -1 and char not in moves[walk]:
            moves[walk][char] = state
            walk = links[walk]
        if walk != -1:
            target = moves[walk][char]
            if lengths[target] == lengths[walk] + 1:
                links[state] = target
            else:
                clone = len(moves)
                moves.append(dict(moves[target]))
                lengths.append(lengths[walk] + 1)
                links.append(links[target])
                ends.append(ends[target])
                while walk != -1 and moves[walk].get(char) == target:
                    moves[walk][char] = clone
                    walk = links[walk]
                links[target] = links[state] = clone
        last = state
    best = max((link for link in links if link > 0), key=lengths.__getitem__, default=0)
    return normal[ends[best] - lengths[best] : ends[best]]


def is_looping(text: str) -> bool:
    """True for degenerate repetition: a phrase four times or more in a row, or a text that is mostly one sentence.

    Laughter, ruled lines and stretched sounds (ㅋㅋㅋㅋ, -----, 아아아) are loops only if longer than people write.
    """
    normal = nfc(text)
    words = _WORD.findall(normal)
    if _word_loop(words) or _character_loop(_collapse(normal)):
        return True
    return _mostly_one_sentence(normal)


def json_shaped(text: str) -> bool:
    """True when an answer begins as a JSON object or array, or with a fence that holds one.

    It need not be complete or valid: cut-off answers count. `[목차]` and footnotes such as `[1] ...` do not.
    """
    start = text.lstrip("\ufeff \t\r\n")
    if _JSON_START.match(start):
        return True
    if not start.startswith("["):
        return False
    try:
        return isinstance(json.loads(start), list)
    except (ValueError, RecursionError):
        return False


def _letters(counts: dict[str, int]) -> int:
    return sum(count for name, count in counts.items() if Script(name).is_letter)


def _collapse(text: str) -> str:
    return " ".join(text.split())


def _character_ngrams(text: str, n: int) -> list[str]:
    if n < 1:
        raise ValueError(f"n is {n}; an n-gram has at least one character")
    collapsed = _collapse(nfc(text))
    return [collapsed[index : index + n] for index in range(len(collapsed) - n + 1)]


def _longest_run(items: Sequence[str], period: int) -> tuple[int, int]:
    """Length and end of the longest stretch of `items` that has this period."""
    run = best = best_end = 0
    for index in range(period, len(items)):
        run = run + 1 if items[index] == items[index - period] else 0
        if run > best:
            best, best_end = run, index + 1
    return best + period, best_end


def _word_loop(words: Sequence[str]) -> bool:
    for period in range(1, min(_MAX_PHRASE_WORDS, len(words) // _MIN_REPEATS) + 1):
        length, end = _longest_run(words, period)
        if length < _MIN_REPEATS * period:
            continue
        stretch = words[end - length : end]
        n_chars = sum(map(len, stretch))
        # One sound written as separate words (하 하 하 하) is laughter.
        if len(set("".join(stretch))) > 1 or n_chars >= _MIN_LOOP_CHARS:
            return True
    return False


def _character_loop(text: str) -> bool:
    """True for a loop without white space between its turns; a short one is onomatopoeia unless it fills the text."""
    for period in range(1, min(_MAX_PHRASE_CHARS, len(text) // _MIN_REPEATS) + 1):
        length, end = _longest_run(text, period)
        stretch = text[end - length : end]
        if length < _MIN_REPEATS * period or not any(char.isalnum() for char in stretch):
            continue
        fills_text = period > 1 and len(set(stretch)) > 1 and length >= len(text) / 2
        if length >= _MIN_LOOP_CHARS or fills_text:
            return True
    return False


def _mostly_one_sentence(text: str) -> bool:
    sentences = [_LIST_MARK.sub("", part.strip()).rstrip(".!?。… ") for part in _SENTENCE_END.split(text)]
    counts = Counter(part for part in sentences if len(part) >= _MIN_SENTENCE_CHARS)
    n_chars = sum(map(len, sentences))
    return any(count >= 3 and count * len(part) > n_chars / 2 for part, count in counts.items())
