from __future__ import annotations

import tracemalloc

import pytest

from mlx_loopai.data.audit import Auditor, audit, language
from mlx_loopai.data.personal import personal_hints
from mlx_loopai.data.records import Message, Record


def row(answer: str, number: int = 1, prompt: str = "이야기해 주세요.", category: str = "domain") -> Record:
    return Record((Message("user", prompt), Message("assistant", answer)), "chat", category, f"rows.jsonl:{number}")


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("오늘은 맑다.", "hangul"),
        ("Hello there", "latin"),
        ("今天天气", "han"),
        ("가나 abc 天地", "mixed"),
        ("12!", "none"),
    ],
)
def test_language_is_the_script_of_most_letters(text: str, script: str) -> None:
    assert language(text) == script


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("전화는 010-1234-5678 입니다", "phone"),
        ("전화는 01012345678", ""),
        ("02-123-4567로", "phone"),
        ("900101-1234567", "resident number"),
        ("901301-1234567", ""),
        ("메일 a.b+c@example.co.kr 로", "email"),
        ("카드 4111 1111 1111 1111", "card"),
        ("카드 4111 1111 1111 1112", ""),
        ("2024-01-02에 12,345원, 1234-56", ""),
    ],
)
def test_personal_hints(text: str, kind: str) -> None:
    assert [found for found, _ in personal_hints(text)] == ([kind] if kind else [])


def test_a_hint_is_shown_masked() -> None:
    assert list(personal_hints("010-1234-5678")) == [("phone", "01*-****-****")]


def test_every_kind_is_counted_with_its_rows() -> None:
    records = [
        row("맑은 날입니다.", 1),
        row('{"text": ["글."]}', 2),
        row("<b>굵은</b> 글 http://a.kr", 3),
        row("맑은 날입니다!", 4),
        row("연락처 010-1234-5678", 5, category="dialogue"),
    ]
    found = audit(records, validation=[row("연락처: 010 1234 5678", 9)])
    assert (found.rows, found.categories) == (5, {"domain": 4, "dialogue": 1})
    assert found.json_shaped.examples == ("rows.jsonl:2",)
    assert found.contamination["html"].examples == ("rows.jsonl:3",)
    assert found.contamination["url"].rows == 1
    assert found.duplicates.examples == ("rows.jsonl:4",)
    assert found.personal["phone"].rows == 1
    assert found.leaked.examples == ("rows.jsonl:5",)
    assert [
        word for word in ("JSON", "repeat", "validation", "phone") if not any(word in w for w in found.warnings)
    ] == []


def test_lengths_are_in_characters_or_tokens_and_give_the_utilisation() -> None:
    records = [row("가" * length, number) for number, length in enumerate((3, 10, 120, 121))]
    plain = audit(records)
    assert (plain.length_unit, plain.real_token_share, sum(plain.lengths.values())) == ("characters", None, 4)
    counted = audit(records, count_tokens=lambda record: len(record.messages[-1].content))
    assert counted.lengths == {4: 1, 16: 1, 128: 2}
    assert (counted.length_unit, counted.longest) == ("tokens", 121)
    assert counted.real_token_share is not None
    assert 0.9 < counted.real_token_share <= 1


def test_a_long_word_before_an_at_sign_is_read_once() -> None:
    assert list(personal_hints("a" * 400_000 + " @")) == []


def _peak_of_audit(rows: int) -> int:
    """Bytes, from the first row to the finished audit."""
    tracemalloc.start()
    with Auditor() as auditor:
        for number in range(rows):
            auditor.add(
                row(f"{number // 2}번째 이야기는 {number // 2 * 7919} 걸음 떨어진 마을에서 일어납니다.", number)
            )
        assert auditor.finished().duplicates.rows == rows // 2
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_loopai.data.key_columns._KEYS_AT_ONCE", 64)
    monkeypatch.setattr("mlx_loopai.data.key_columns._SORTED_AT_ONCE", 64)
    monkeypatch.setattr("mlx_loopai.data.row_groups._AT_ONCE", 64)
    few, many = _peak_of_audit(400), _peak_of_audit(1600)
    assert many < few + 1200 * 8, "as much as a number for each row"


def test_no_rows_at_all() -> None:
    found = audit([])
    assert (found.rows, found.longest, found.warnings) == (0, 0, [])
