"""Reading files of rows: every shape, every format, every problem with its line."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_loopai.data.formats import read_rows
from mlx_loopai.data.records import Message, read_records
from mlx_loopai.errors import InputError

CHAT = {"messages": [{"role": "user", "content": "안녕"}, {"role": "assistant", "content": "안녕하세요."}]}
TURNS = (Message("user", "안녕"), Message("assistant", "안녕하세요."))


def write_lines(folder: Path, *rows, name: str = "rows.jsonl") -> Path:
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def problem_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_records(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        (CHAT, TURNS),
        ({"conversations": [{"from": "human", "value": "안녕"}, {"from": "gpt", "value": "안녕하세요."}]}, TURNS),
        ({"conversations": CHAT["messages"]}, TURNS),
        ({"prompt": "안녕", "completion": "안녕하세요."}, TURNS),
        ({"instruction": "안녕", "response": "안녕하세요."}, TURNS),
        ({"question": "안녕", "answer": "안녕하세요."}, TURNS),
        ({"Q": "안녕", "A": "안녕하세요.", "label": 0}, TURNS),
        ({"instruction": "안녕", "input": "", "output": "안녕하세요."}, TURNS),
        (
            {"instruction": "옮겨 줘", "input": "hello", "output": "안녕"},
            (Message("user", "옮겨 줘\n\nhello"), Message("assistant", "안녕")),
        ),
        ({"system": "짧게", "prompt": "안녕", "completion": "안녕하세요."}, (Message("system", "짧게"), *TURNS)),
        ({"messages": None, "text": "글."}, (Message("assistant", "글."),)),
        (
            {"text": ["첫 문단.", " 둘째 문단.\n"], "metadata": {"genre": "fantasy"}},
            (Message("user", "판타지 장르의 글을 한 편 써 주세요."), Message("assistant", "첫 문단.\n\n둘째 문단.")),
        ),
        ({"text": ["글."]}, (Message("user", "이야기를 한 편 써 주세요."), Message("assistant", "글."))),
    ],
)
def test_every_shape_becomes_messages(tmp_path, row, messages):
    path = write_lines(tmp_path, row)
    (record,) = read_records(path, category="creative")
    assert record.messages == messages
    assert record.kind == ("text" if len(messages) == 1 else "chat")
    assert (record.category, record.origin) == ("creative", f"{path}:1")


def test_blank_lines_count_as_lines(tmp_path):
    path = write_lines(tmp_path, CHAT, "", CHAT)
    assert [record.origin for record in read_records(path)] == [f"{path}:1", f"{path}:3"]


def test_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(CHAT).encode() + b"\r\n")
    assert read_records(path)[0].messages == TURNS


def test_a_line_separator_inside_a_string_is_no_line_end(tmp_path):
    path = write_lines(tmp_path, {"text": "하나\u2028둘"}, CHAT)
    assert [record.origin for record in read_records(path)] == [f"{path}:1", f"{path}:2"]


def test_json_list_keeps_the_lines_of_its_items(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(f"[\n{json.dumps(CHAT)},\n\n{json.dumps(CHAT, indent=1)}\n]\n", encoding="utf-8")
    assert [record.origin for record in read_records(path)] == [f"{path}:2", f"{path}:4"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.none()))), st.sampled_from([None, 1]))
def test_json_list_reads_as_the_standard_library_does(tmp_path_factory, values, indent):
    path = tmp_path_factory.mktemp("json") / "rows.json"
    path.write_text(json.dumps(values, indent=indent), encoding="utf-8")
    rows, problems = read_rows(path)
    assert [row.values for row in rows] == values
    assert problems == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1 2]", ":1: broken JSON: expected ','"),
        ('[\n{"a": }]', ":2: broken JSON at column 7"),
        ('[\n{"a": 1}\n', "not closed"),
        ('[{"text": "a"}]\n]', ":2: text after the end"),
        ('{"a": 1}', "holds a list of objects"),
        ("  \n", "holds no rows"),
        ("[]", "holds no rows"),
    ],
)
def test_broken_json_lists(tmp_path, text, expected):
    path = tmp_path / "rows.json"
    path.write_text(text, encoding="utf-8")
    assert expected in problem_of(path)


def test_csv_rows_over_several_lines_keep_their_first_line(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('Q,A,label\n"안\n녕",네,0\n잘 가,"그래, 안녕",1\n', encoding="utf-8")
    first, second = read_records(path)
    assert (first.origin, second.origin) == (f"{path}:2", f"{path}:4")
    assert first.messages[0].content == "안\n녕"
    assert second.messages[1].content == "그래, 안녕"


def test_csv_cells_may_be_long(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(f"text\n{'가' * 200_000}\n", encoding="utf-8")
    assert len(read_records(path)[0].messages[0].content) == 200_000


def test_csv_problems_name_their_lines(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('Q,A\n하나,둘,셋\n하나,""\n넷,"다섯', encoding="utf-8")
    message = problem_of(path)
    assert f"{path}:2: 3 cells under 2 columns" in message
    assert f"{path}:3: empty assistant turn" in message
    assert f"{path}:4: broken CSV" in message


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{**CHAT, "text": None}, {"messages": None, "text": "글."}]), path)
    records = read_records(path)
    assert [record.kind for record in records] == ["chat", "text"]
    assert records[1].origin == f"{path}:2"


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setattr(builtins, "__import__", refuse)
    assert "mlx-loopai[parquet]" in problem_of(path)


def test_broken_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"no parquet")
    assert "not a Parquet file" in problem_of(path)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"messages": [', "broken JSON at column"),
        ("[" * 100_000, "JSON"),
        ("[1]", "expected an object with named fields, got a list"),
        ('"text"', "got text"),
        ({"title": "x", "body": "y"}, "unknown shape (fields found: title, body)"),
        ({"prompt": "x", "by": "y"}, "unknown shape (fields found: prompt, by)"),
        ({"prompt": "x", "completion": " \n"}, "empty assistant turn"),
        ({"messages": [{"role": "user", "content": "x"}]}, "no assistant turn"),
        ({"messages": []}, "no assistant turn"),
        ({"messages": "x"}, "must be a list of turns, got text"),
        ({"messages": ["x"]}, "turn 1 must be an object"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "turn 1 has the wrong role 'narrator'"),
        ({"messages": [{"role": "assistant", "content": None}]}, "turn 1's content must be text, got nothing"),
        ({"conversations": [{"from": "bing", "value": "x"}]}, "wrong role 'bing'"),
        ({"text": "  "}, "empty text"),
        ({"text": []}, "empty assistant turn"),
        ({"text": ["a", 2]}, "text 2 must be text, got a number"),
        ({"question": "1+1", "answer": 2}, "answer must be text, got a number"),
        ('{"text": "\\ud83d"}', "surrogate"),
    ],
)
def test_problems_name_file_line_and_reason(tmp_path, row, reason):
    path = write_lines(tmp_path, CHAT, row)
    message = problem_of(path)
    assert message.startswith(f"{path}:2: ")
    assert reason in message


def test_all_problems_in_order_ten_listed(tmp_path):
    wrong = [{"conversations": [{"from": f"role{n}", "value": "x"}]} for n in range(12)]
    path = write_lines(tmp_path, "{", *wrong, CHAT)
    message = problem_of(path)
    assert [message.find(f"{path}:{line}:") >= 0 for line in range(1, 14)] == [True] * 10 + [False] * 3
    assert message.endswith("and 3 more")


def test_one_mistake_in_many_rows_is_said_once(tmp_path):
    path = write_lines(tmp_path, "{", *([{"x": 1}] * 60))
    message = problem_of(path)
    assert message.count(f"{path}:") == 2
    assert message.endswith("(and 59 more rows, such as line 3)")


def test_files_that_cannot_be_read(tmp_path):
    assert "no such file" in problem_of(tmp_path / "none.jsonl")
    assert "cannot read .txt; give .jsonl, .json, .csv, .parquet" in problem_of(
        write_lines(tmp_path, CHAT, name="a.txt")
    )
    folder = tmp_path / "folder.jsonl"
    folder.mkdir()
    assert "holds no rows" in problem_of(folder)
    empty = write_lines(tmp_path, name="empty.jsonl")
    assert "holds no rows" in problem_of(empty)


def test_other_encodings_name_the_line_and_the_likely_encoding(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes("Q,A\n안녕,네\n".encode("cp949"))
    message = problem_of(path)
    assert f"{path}:2: not UTF-8 (byte 0xbe)" in message
    assert "CP949" in message
