from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_loopai.errors import InputError
from mlx_loopai.retrieval.chunks import read_chunks, split_text

SENTENCES = ["등대에 불이 켜졌다.", "배가 돌아왔다!", "바람이 불었을까?", "끝."]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([*SENTENCES, " ", "\n", "\n\n", "긴" * 70, "낱말 " * 30, "***"])), st.integers(20, 90))
def test_passages_are_short_and_lose_nothing(parts: list[str], max_chars: int) -> None:
    text = " ".join(parts)
    passages = list(split_text(text, max_chars))
    assert all(0 < len(body) <= max_chars and text[start:].startswith(body) for start, body in passages)
    assert [start for start, _ in passages] == sorted(start for start, _ in passages)
    kept = "".join(char for _, body in passages for char in body if char.isalnum())
    assert kept == "".join(char for char in text if char.isalnum())


def test_sentences_stay_whole_and_paragraphs_apart() -> None:
    text = " ".join(SENTENCES)
    assert [body for _, body in split_text(text, 24)] == ["등대에 불이 켜졌다. 배가 돌아왔다!", "바람이 불었을까? 끝."]
    assert [body for _, body in split_text("가나다라 마바사.\n\n아자차카.", 16)] == ["가나다라 마바사.", "아자차카."]
    # A short paragraph takes the next one in.
    assert [body for _, body in split_text("가.\n\n아자차카.", 16)] == ["가.\n\n아자차카."]


def test_lines_of_a_text(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("\ufeff# 제목\n\n첫 문단이다.\n\n\n  둘째 문단이다.\n***\n", encoding="utf-8")
    chunks = read_chunks(path, 13)
    assert [(chunk.line, chunk.text) for chunk in chunks] == [(1, "# 제목\n\n첫 문단이다."), (6, "둘째 문단이다.")]
    assert {chunk.file for chunk in chunks} == {str(path)}


def test_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    chat = {
        "messages": [
            {"role": role, "content": text}
            for role, text in (("system", "짧게"), ("user", "바다란?"), ("assistant", "넓은 물이다."))
        ]
    }
    rows = [{"text": "하나다."}, chat, {"prompt": "등대란?", "completion": "불빛이다."}]
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert [(chunk.line, chunk.text) for chunk in read_chunks(path)] == [
        (1, "하나다."),
        (3, "바다란?\n\n넓은 물이다."),
        (5, "등대란?\n\n불빛이다."),
    ]


def test_equal_words_have_equal_ids(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("ABC 등대, 불빛.\n\nabc  등대 불빛!\n\n다른 말이다.", encoding="utf-8")
    first, second, third = (chunk.id for chunk in read_chunks(path, 14))
    assert first == second != third


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.pdf", b"x", "cannot read .pdf"),
        ("a.txt", b"\xb0\xa1", "not UTF-8 at byte 0"),
        ("a.jsonl", b'{"a": 1}\n{', "a.jsonl:1: unknown shape"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason):
        read_chunks(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        read_chunks(tmp_path / "missing.txt")
