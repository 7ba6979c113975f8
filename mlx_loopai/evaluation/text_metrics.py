"""Metrics of generated texts, with and without references.

BLEU and chrF suit paraphrase, translation and retention. No metric with references tells whether a story is good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from mlx_loopai.data.formats import read_rows
from mlx_loopai.errors import InputError, all_problems, install_command
from mlx_loopai.language import tr
from mlx_loopai.text.hangul import nfc
from mlx_loopai.text.measures import (
    distinct_n,
    line_pass_rate,
    longest_repeat,
    purity,
    rep_n,
    word_pass_rate,
    word_pass_rate_ko,
)
from mlx_loopai.text.style import GENRE_WORDS, genre_fit, sentences

Tokenisation = Literal["char", "ko-mecab"]

TEXT_NAMES = ("text", "completion", "answer", "response", "output")
_SELF_BLEU_ORDER = 4


@dataclass(frozen=True)
class Generated:
    """One generated text, with its prompt and the genre that was asked for where they are known."""

    text: str
    prompt: str | None = None
    genre: str | None = None


def read_generated(path: Path) -> list[Generated]:
    """Texts of a JSONL, JSON, CSV or Parquet file: a `text` (or completion, answer ...), and prompt and genre if given.

    Raises: InputError with every unreadable row (file:line).
    """
    rows, broken = read_rows(path)
    problems = [f"{path}:{problem.line}: {problem.reason}" for problem in broken]
    found = []
    for row in rows:
        fields = row.values if isinstance(row.values, dict) else {}
        text = next((fields[name] for name in TEXT_NAMES if isinstance(fields.get(name), str)), None)
        if text is None:
            problems.append(
                tr(
                    "{path}:{line}: no text; give one of the fields {text_names}",
                    path=path,
                    line=row.line,
                    text_names=", ".join(TEXT_NAMES),
                )
            )
        else:
            found.append(Generated(nfc(text), _known(fields.get("prompt")), _known(fields.get("genre"))))
    if problems:
        raise InputError(all_problems(problems))
    if not found:
        raise InputError(tr("{path}: holds no texts; give a file with at least one", path=path))
    return found


def bleu(texts: Sequence[str], references: Sequence[str], order: int, tokenize: Tokenisation = "char") -> float:
    """Corpus BLEU of n-grams up to `order`, in [0, 100], after NFC.

    tokenize: `char`, or `ko-mecab`, which needs the extra `ko`. Words split at white space would not do for Korean: a
    different particle would count as much as a different word. Source: Papineni et al. 2002, by sacreBLEU (Post 2018);
    `signatures` gives its settings.
    """
    return float(_bleu(order, tokenize).corpus_score(_normal(texts), [_normal(references)]).score)


def chrf(texts: Sequence[str], references: Sequence[str]) -> float:
    """chrF++ (characters to 6, words to 2), in [0, 100], after NFC. Source: Popovic 2017, by sacreBLEU."""
    return float(CHRF(word_order=2).corpus_score(_normal(texts), [_normal(references)]).score)


def signatures(texts: Sequence[str], references: Sequence[str], tokenize: Tokenisation) -> dict[str, str]:
    """sacreBLEU's signatures of the figures that `score_texts` gives, so that others can compare with them."""
    metrics = {"bleu4": _bleu(4, tokenize), "chrf": CHRF(word_order=2)}
    for metric in metrics.values():
        metric.corpus_score(_normal(texts), [_normal(references)])
    return {name: str(metric.get_signature()) for name, metric in metrics.items()}


def self_bleu(texts: Sequence[str]) -> float | None:
    """Mean BLEU-4 of each text against all others, on characters, in [0, 100]; high when all texts are alike.

    None for fewer than two texts. Source: Zhu et al. 2018, "Texygen".
    """
    if len(texts) < 2:
        return None
    metric = BLEU(max_ngram_order=_SELF_BLEU_ORDER, tokenize="char", effective_order=True)
    scores = [
        metric.sentence_score(text, [*texts[:index], *texts[index + 1 :]]).score for index, text in enumerate(texts)
    ]
    return sum(scores) / len(scores)


def score_texts(
    generated: Sequence[Generated], references: Sequence[str] | None = None, tokenize: Tokenisation = "char"
) -> dict[str, Any]:
    """Every metric of the JSON document; what cannot be computed (no references, no genres) is null.

    Shares and rates in [0, 1], BLEU and chrF in [0, 100], lengths in characters.
    Raises: InputError when references and texts differ in number.
    """
    texts = [one.text for one in generated]
    prompts = [one.prompt or "" for one in generated]
    style = sentences(texts)
    document: dict[str, Any] = {"n": len(texts), **_against(texts, references, tokenize)}
    document |= {
        "purity": purity("\n".join(texts)),
        "lpr": line_pass_rate(texts),
        "wpr": word_pass_rate(texts),
        "wpr_ko": word_pass_rate_ko(texts, prompts),
        **{f"distinct{n}": distinct_n(texts, n) for n in (1, 2, 3)},
        **{f"rep{n}": sum(rep_n(text, n) for text in texts) / len(texts) for n in (2, 3, 4)},
        "self_bleu": self_bleu(texts),
        "longest_repeat_chars": max(len(longest_repeat(text)) for text in texts),
        "sentences": style.count,
        "sentence_chars_mean": style.mean_chars,
        "sentence_chars_deviation": style.deviation_chars,
        "ending_bits": style.ending_bits,
        "genre_fit": _mean_genre_fit(generated),
    }
    return document


def _against(texts: Sequence[str], references: Sequence[str] | None, tokenize: Tokenisation) -> dict[str, Any]:
    if references is None:
        return dict.fromkeys(("bleu1", "bleu2", "bleu4", "chrf", "signatures"))
    if len(references) != len(texts):
        raise InputError(
            tr(
                "{n_texts} texts and {n_references} references: give one reference per text, in order",
                n_texts=len(texts),
                n_references=len(references),
            )
        )
    scores = {f"bleu{order}": bleu(texts, references, order, tokenize) for order in (1, 2, 4)}
    return {**scores, "chrf": chrf(texts, references), "signatures": signatures(texts, references, tokenize)}


def _bleu(order: int, tokenize: Tokenisation) -> BLEU:
    try:
        return BLEU(max_ngram_order=order, tokenize=tokenize)
    except (ImportError, RuntimeError):
        raise InputError(
            tr(
                "`tokenize` {tokenize}: needs a morpheme analyser; {install}",
                tokenize=tokenize,
                install=install_command("ko"),
            )
        ) from None


def _mean_genre_fit(generated: Sequence[Generated]) -> float | None:
    fits = [genre_fit(one.text, one.genre) for one in generated if one.genre in GENRE_WORDS]
    return sum(fits) / len(fits) if fits else None


def _normal(texts: Sequence[str]) -> list[str]:
    return [nfc(text) for text in texts]


def _known(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
