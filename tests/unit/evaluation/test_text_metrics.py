from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from sacrebleu.metrics.bleu import BLEU

from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.text_metrics import Generated, bleu, chrf, read_generated, score_texts, self_bleu

REFERENCE = "나는 어제 친구와 함께 도서관에서 책을 읽었다."
OTHER_ENDINGS = "나는 어제 친구랑 함께 도서관에서 책을 읽었습니다."
UNRELATED = "내일은 전국에 많은 비가 내릴 것으로 보인다."


def test_whitespace_bleu_and_nfd_mislead() -> None:
    """Why BLEU is on characters after NFC: a particle costs words two thirds, and a decomposed text looks unrelated."""
    words = BLEU(max_ngram_order=4, tokenize="13a")
    decomposed = unicodedata.normalize("NFD", REFERENCE)
    assert words.corpus_score([OTHER_ENDINGS], [[REFERENCE]]).score < 40 < bleu([OTHER_ENDINGS], [REFERENCE], 4)
    assert BLEU(tokenize="char").corpus_score([decomposed], [[REFERENCE]]).score < 5
    assert bleu([decomposed], [REFERENCE], 4) == pytest.approx(100)
    assert chrf([decomposed], [REFERENCE]) == pytest.approx(100)


def test_bleu_falls_with_the_order_and_with_the_meaning() -> None:
    scores = [bleu([OTHER_ENDINGS], [REFERENCE], order) for order in (1, 2, 4)]
    assert scores == sorted(scores, reverse=True)
    assert bleu([UNRELATED], [REFERENCE], 4) < 15 < scores[-1]


def test_bleu_1_is_the_clipped_precision() -> None:
    # 가가나 against 가나다: one 가 and one 나 of three count; no brevity penalty at equal length.
    assert bleu(["가가나"], ["가나다"], 1) == pytest.approx(100 * 2 / 3)


def test_self_bleu_knows_one_story_told_three_times() -> None:
    assert self_bleu([REFERENCE]) is None
    same, different = self_bleu([REFERENCE] * 3), self_bleu([REFERENCE, UNRELATED, "고양이가 창가에서 존다."])
    assert same == pytest.approx(100)
    assert different is not None
    assert different < 30


def test_every_promised_figure_is_there() -> None:
    found = score_texts(
        [Generated(REFERENCE, "일기", "수필"), Generated("그는 走了 갔다.", "글")], [REFERENCE, UNRELATED]
    )
    promised = "n bleu1 bleu2 bleu4 chrf purity lpr wpr wpr_ko distinct2 rep4 signatures ending_bits".split()
    assert [name for name in promised if found[name] is None] == []
    assert (found["n"], found["wpr_ko"]) == (2, 0.5)
    assert "tok:char" in found["signatures"]["bleu4"]


def test_what_cannot_be_computed_is_null_and_numbers_must_agree() -> None:
    found = score_texts([Generated(REFERENCE)])
    assert [found[name] for name in ("bleu4", "chrf", "self_bleu", "genre_fit")] == [None] * 4
    with pytest.raises(InputError, match="1 texts and 2 references"):
        score_texts([Generated(REFERENCE)], [REFERENCE, UNRELATED])


def test_files_are_read_with_prompt_and_genre(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    rows = [{"prompt": "글", "text": unicodedata.normalize("NFD", "한글"), "genre": "시"}, {"completion": "둘"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert read_generated(path) == [Generated("한글", "글", "시"), Generated("둘")]


@pytest.mark.parametrize(
    ("content", "says"), [('{"a": 1}\n[1]\n', "no text"), ("{broken\n", ":1: broken JSON"), ("", "holds no texts")]
)
def test_unreadable_rows_are_named(content: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=says):
        read_generated(path)
