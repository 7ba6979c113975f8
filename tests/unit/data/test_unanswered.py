"""Prompts without an answer: how rows are read, encoded and kept apart, and what makes one unreadable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.config import PreferenceOptions, SourceOptions
from mlx_loopai.config.sources import SourceKind
from mlx_loopai.data.audit import Auditor
from mlx_loopai.data.chosen_rows import column_of
from mlx_loopai.data.conversation import Message
from mlx_loopai.data.pairs import read_judged
from mlx_loopai.data.records import Reading, read_all
from mlx_loopai.data.row_identity import rows_digest
from mlx_loopai.data.rows import RowForm, RowReader, Rows, WantedRows
from mlx_loopai.data.sources import conversations_of, read_source
from mlx_loopai.data.turns import UnreadableError
from mlx_loopai.data.unanswered import Unanswered, Wishes
from mlx_loopai.errors import InputError
from mlx_loopai.models.load import load_tokenizer

GRPO = PreferenceOptions(objective="grpo", answer_tokens=8)


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(folder: Path, *rows: Any, kind: SourceKind = "auto") -> Reading:
    return read_all(write(folder, *rows), kind=kind)


def wishes(row: dict[str, Any], kind: SourceKind = "auto") -> Wishes:
    found = read_judged(row, kind).wishes
    assert found is not None
    return found


def run_rows(model: Path, path: Path, max_tokens: int = 64, preference: PreferenceOptions = GRPO, **how: Any) -> Rows:
    wanted = WantedRows(
        sources={"p": SourceOptions(path=str(path), **how)}, validation="", validation_share=0.3,
        preference=preference, form=RowForm("", max_tokens),
    )  # fmt: skip
    return RowReader(load_tokenizer(model)).rows(wanted)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Tell me a story."}, Wishes()),
        ({"prompt": "동화를 한 편 써 주세요."}, Wishes(genre="동화", korean=True)),
        ({"prompt": "Go.", "length": [60, 240]}, Wishes(length=(60, 240))),
        ({"prompt": "Go.", "length": "60:240"}, Wishes(length=(60, 240))),
        ({"prompt": "Go.", "words": ["lantern", " fox "]}, Wishes(words=("lantern", "fox"))),
        ({"prompt": "Go.", "words": "lantern"}, Wishes(words=("lantern",))),
        ({"prompt": "Go.", "words": '["a", "b"]'}, Wishes(words=("a", "b"))),
        ({"prompt": "Go.", "format": "json"}, Wishes(format="json")),
        ({"prompt": "Go.", "items": 3}, Wishes(format="list", items=3)),
        ({"prompt": "Go.", "format": "json", "items": "2"}, Wishes(format="json", items=2)),
        ({"prompt": "이야기 하나", "genre": "SF", "id": 7}, Wishes(genre="SF", korean=True)),
    ],
)
def test_what_is_wished_of_an_answer(row: dict[str, Any], expected: Wishes) -> None:
    assert wishes(row) == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"length": [9, 5]}, r"length \[9, 5\]: expected fewest and most"),
        ({"length": 60}, "length 60: expected"),
        ({"length": [True, 5]}, "length"),
        ({"length": "9"}, "length '9'"),
        ({"words": [""]}, "words must be a list"),
        ({"words": {"a": 1}}, "words must be a list"),
        ({"format": "xml"}, "format 'xml' is unknown; known: json, list"),
        ({"items": 0}, "items 0: expected how many"),
        ({"items": 1.5}, "items 1.5"),
        ({"genre": "western"}, "genre 'western' is unknown; known: 판타지"),
        ({"prompt": ""}, "ends with a request"),
        ({"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "ends with a request"),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}]}, "picture"),
    ],
)
def test_a_row_that_cannot_be_read_says_why_and_where(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    found = read(tmp_path, {"prompt": "Go."}, {"prompt": "Go."} | row)
    with pytest.raises(InputError, match=rf"prompts\.jsonl:2: .*{reason}"):
        found.checked()


def test_an_answer_is_used_only_where_the_kind_does_not_say_prompts(tmp_path: Path) -> None:
    rows = (
        {"prompt": "Go.", "completion": "Gone."},
        {"messages": [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "Gone."}]},
        {"messages": [{"role": "system", "content": "Short."}, {"role": "user", "content": "Go."}]},
    )
    as_rows, as_prompts = read(tmp_path, *rows[:2]), read(tmp_path, *rows, kind="prompts")
    assert (len(as_rows.records), as_rows.judged) == (2, ())
    assert [one.prompt.messages[-1] for one in as_prompts.judged if isinstance(one, Unanswered)] == 3 * [
        Message("user", "Go.")
    ]
    assert as_prompts.unused == {"completion": 1, "messages[-1]": 1}
    with pytest.raises(UnreadableError, match="expected `prompt`"):
        read_judged({"text": "Gone."}, "prompts")
    with pytest.raises(UnreadableError, match="must be a list of turns"):
        read_judged({"messages": "Gone."}, "prompts")


def test_a_row_with_an_unknown_field_is_no_prompt_by_itself(tmp_path: Path) -> None:
    """The field may hold the answer."""
    with pytest.raises(InputError, match="unknown shape"):
        read(tmp_path, {"prompt": "Go.", "reply": "Gone."}).checked()
    assert read(tmp_path, {"prompt": "Go.", "reply": "Gone."}, kind="prompts").unused == {"reply": 1}


words = st.lists(st.text("abc", min_size=1), max_size=3)
lengths = st.tuples(st.integers(0, 50), st.integers(50, 99))


@given(st.text("가나다", min_size=1), st.none() | lengths, words, st.none() | st.integers(1, 9))
def test_a_prompt_is_written_as_it_is_read(text: str, length: Any, asked: list[str], items: int | None) -> None:
    row = {"prompt": text, "words": asked, "items": items, "length": length and list(length)}
    first = read_judged({name: value for name, value in row.items() if value})
    assert first.wishes is not None
    record = next(iter([first.meaning])).messages
    from mlx_loopai.data.conversation import Record

    again = Unanswered(Record(record, "chat", "domain", "f:1"), first.wishes).as_row()
    assert read_judged(json.loads(json.dumps(again))) == first


def test_a_run_reads_prompts_as_generation_does(tiny_model_folder: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"{topic} 이야기", "length": [5, 40]} for topic in ("바다", "산", "강", "별", "눈", "숲")]
    found = run_rows(tiny_model_folder, write(tmp_path, *rows))
    encoder = RowReader(load_tokenizer(tiny_model_folder)).encoder("")
    for row in found.all:
        assert not row.supervised.any()
        assert not row.judged
        assert row.prompt.tolist() == row.ids.tolist()
        assert row.wishes is not None
        assert row.wishes.length == (5, 40)
    wanted = {tuple(encoder.prompt_ids([Message("user", row["prompt"])])) for row in rows}
    assert {tuple(row.ids.tolist()) for row in found.all} == wanted
    assert len(found.asked) == 2
    assert (found.validation, found.judged, found.fixed) == ([], [], [])
    assert column_of(found.sources["p"], "asked").all()
    assert found.longest_asked == found.longest


def test_other_wishes_are_other_rows(tiny_model_folder: Path, tmp_path: Path) -> None:
    one, other = (
        run_rows(tiny_model_folder, write(tmp_path, {"prompt": "별"}, {"prompt": "강", "items": items}))
        for items in (2, 3)
    )
    assert rows_digest(one.all) != rows_digest(other.all)
    assert one.digest != other.digest


def test_what_does_not_fit_is_refused_by_name(tiny_model_folder: Path, tmp_path: Path) -> None:
    prompts = write(tmp_path, {"prompt": "별 이야기를 써 주세요."})
    with pytest.raises(InputError, match=r"prompts\.jsonl:1: .* an answer of 8 are more than the 40 of a row"):
        run_rows(tiny_model_folder, prompts, max_tokens=40)
    plain = PreferenceOptions()
    with pytest.raises(InputError, match=r"prompts\.jsonl:1: a prompt without an answer"):
        run_rows(tiny_model_folder, prompts, preference=plain)
    with pytest.raises(InputError, match=r"prompts\.jsonl:1: a prompt without an answer"):
        read_source(str(prompts), "domain")
    answered = {"prompt": "별", "completion": "밝다."}
    mixed = write(tmp_path, {"prompt": "별"}, answered)
    assert len(run_rows(tiny_model_folder, mixed, preference=plain, skip_bad=True).sources["p"]) == 1
    assert [len(record.messages) for record in conversations_of(str(mixed), "domain")] == [1, 2]
    pairs = write(tmp_path, {"prompt": "별", "chosen": "밝다.", "rejected": "dark"})
    with pytest.raises(InputError, match=r"an answer that was judged .*judges the model's own"):
        run_rows(tiny_model_folder, pairs)
    assert len(list(run_rows(tiny_model_folder, pairs, kind="prompts").all)) == 1
    with pytest.raises(InputError, match="none of p holds a prompt without an answer"):
        run_rows(tiny_model_folder, write(tmp_path, answered))


def test_the_audit_counts_prompts(tmp_path: Path) -> None:
    with Auditor() as auditor:
        for one in read(tmp_path, {"prompt": "별"}, {"prompt": "강", "items": 2}).judged:
            auditor.add(one)
        found = auditor.finished().preferences
    assert found is not None
    assert (found.asked, found.wished, found.prompts, found.judged) == (2, 1, 2, False)
    assert found.warnings == []
