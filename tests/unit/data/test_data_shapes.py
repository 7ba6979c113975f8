"""Rows as people have them: what each means, and which of its fields nobody reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.data.conversation import Message
from mlx_loopai.data.records import read_all, read_records
from mlx_loopai.data.shapes import Meaning, interpret
from mlx_loopai.data.turns import UnreadableError
from mlx_loopai.errors import InputError

ASKED, SAID = Message("user", "안녕?"), Message("assistant", "안녕하세요.")
CALL = {"name": "search", "arguments": {"query": "바다"}}
CALLING = Message("assistant", "", tool_calls=json.dumps([CALL], ensure_ascii=False))


def human(text: str, **more: Any) -> dict[str, Any]:
    return {"from": "human", "value": text, **more}


def gpt(text: str, **more: Any) -> dict[str, Any]:
    return {"from": "gpt", "value": text, **more}


def chat(*turns: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": list(turns), **more}


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


USER, ANSWER = turn("user", "안녕?"), turn("assistant", "안녕하세요.")


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"system": "이야기꾼", "conversations": [human("안녕?"), gpt("안녕하세요.")]}, (Message("system", "이야기꾼"), ASKED, SAID)),
        ({"system": "", "conversations": [human("안녕?"), gpt("안녕하세요.")]}, (ASKED, SAID)),
        ({"system": "가", **chat(turn("system", "가"), USER, ANSWER)}, (Message("system", "가"), ASKED, SAID)),
        (chat(turn("developer", "가"), USER, ANSWER), (Message("system", "가"), ASKED, SAID)),
        (
            {"conversations": [human("안녕?", weight=0), gpt("첫", weight=0), human("다시"), gpt("둘째", weight=1)]},
            (ASKED, Message("assistant", "첫", taught=False), Message("user", "다시"), Message("assistant", "둘째")),
        ),
        (chat(USER, turn("assistant", "첫", train=False), USER, ANSWER), (ASKED, Message("assistant", "첫", taught=False), ASKED, SAID)),
        (
            {"id": "x", "conversations": [gpt("무엇을 도와드릴까요?"), human("안녕?"), gpt("안녕하세요.")]},
            (Message("assistant", "무엇을 도와드릴까요?", taught=False), ASKED, SAID),
        ),
        (chat(turn("user", [{"type": "text", "text": "안녕"}, {"type": "text", "text": "?"}]), ANSWER), (ASKED, SAID)),
        (chat(turn("user", ["안녕?"]), ANSWER), (ASKED, SAID)),
        ({"messages": json.dumps([USER, ANSWER])}, (ASKED, SAID)),
        ({"conversations": json.dumps([human("안녕?"), gpt("안녕하세요.")])}, (ASKED, SAID)),
        ({"prompt": [USER], "completion": [ANSWER]}, (ASKED, SAID)),
        ({"prompt": json.dumps([USER]), "completion": json.dumps([ANSWER])}, (ASKED, SAID)),
        ({"prompt": [USER], "completion": "안녕하세요."}, (ASKED, SAID)),
        (
            {"prompt": [USER, ANSWER, USER], "completion": [ANSWER]},
            (ASKED, Message("assistant", "안녕하세요.", taught=False), ASKED, SAID),
        ),
        (
            {"instruction": "안녕?", "output": "안녕하세요.", "history": [["가", "나"]]},
            (Message("user", "가"), Message("assistant", "나"), ASKED, SAID),
        ),
        (
            chat(USER, turn("assistant", "안녕하세요.", reasoning_content="인사다.\n")),
            (ASKED, Message("assistant", "안녕하세요.", thinking="인사다.")),
        ),
        (
            chat(USER, turn("assistant", "<think>\n인사다.\n</think>\n\n안녕하세요.")),
            (ASKED, Message("assistant", "안녕하세요.", thinking="인사다.")),
        ),
        (chat(USER, turn("assistant", "<think>\n\n</think>\n\n안녕하세요.")), (ASKED, SAID)),
        ({"question": "안녕?", "reasoning": "인사다.", "answer": "안녕하세요."}, (ASKED, Message("assistant", "안녕하세요.", thinking="인사다."))),
        (
            chat(
                USER,
                turn("assistant", None, tool_calls=[{"id": "1", "type": "function", "function": CALL | {"arguments": '{"query": "바다"}'}}]),
                turn("tool", "파도", tool_call_id="1", name="search"),
                ANSWER,
            ),
            (ASKED, CALLING, Message("tool", "파도", name="search"), SAID),
        ),
        (
            {
                "conversations": [
                    human("안녕?"),
                    {"from": "function_call", "value": json.dumps(CALL)},
                    {"from": "observation", "value": "파도"},
                    gpt("안녕하세요."),
                ]
            },
            (ASKED, CALLING, Message("tool", "파도"), SAID),
        ),
    ],
)  # fmt: skip
def test_what_a_row_means(row: dict[str, Any], messages: tuple[Message, ...]) -> None:
    assert interpret(row).messages == messages


def test_tools_beside_a_conversation_are_kept() -> None:
    tools = [{"type": "function", "function": {"name": "search"}}]
    for written in (tools, json.dumps(tools)):
        found = interpret(chat(USER, ANSWER, tools=written))
        assert json.loads(found.tools) == tools
        assert not found.unused


@pytest.mark.parametrize(
    ("row", "unused"),
    [
        (chat(USER, ANSWER), set()),
        (chat(USER, ANSWER, id=3, source="x", empty=None), {"id", "source"}),
        (chat(USER | {"name": "철수"}, ANSWER | {"mood": 1}), {"messages.name", "messages.mood"}),
        ({"conversations": [human("안녕?"), gpt("네.", score=3)], "system": "가"}, {"conversations.score"}),
        ({"prompt": "가", "completion": "나", "input": "", "Genre": "x"}, {"genre"}),
        ({"Q": "가", "A": "나", "label": 0}, {"label"}),
        ({"messages": [USER, ANSWER], "text": "같은 글"}, {"text"}),
        ({"text": ["가"], "metadata": {"genre": "sf"}, "title": "나"}, {"title"}),
    ],
)
def test_fields_that_nothing_reads_are_known(row: dict[str, Any], unused: set[str]) -> None:
    assert interpret(row).unused == unused


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (chat(USER, turn("assistant", [{"type": "image_url", "image_url": {}}])), "part of the type 'image_url'; text and image are read"),
        (chat(USER, turn("assistant", "나", weight=0.5)), "weight is 0.5"),
        (chat(USER, turn("assistant", "나", weight=0)), "no assistant turn is to be learnt"),
        (chat(turn("assistant", "나"), USER), "no assistant turn is to be learnt"),
        (chat(turn("system", "가"), USER, ANSWER, system="나"), "system and a system turn of another text"),
        (chat(USER, turn("assistant", "나", tool_calls=[{"function": {}}])), "tool call without a function's name"),
        (chat(USER, turn("assistant", "나", tool_calls=[{"name": "f", "arguments": "x"}])), "arguments that are not an object"),
        (chat(USER, ANSWER, tools="search"), "tools must be a list"),
        ({"messages": "[{"}, "must be a list of turns, got text"),
        ({"instruction": "가", "output": "나", "history": ["가"]}, "history must be a list of pairs"),
    ],
)  # fmt: skip
def test_rows_that_must_not_be_learnt_say_why(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason) as caught:
        interpret(row)
    assert not caught.value.empty


def test_an_empty_answer_is_told_from_other_problems() -> None:
    with pytest.raises(UnreadableError) as caught:
        interpret({"prompt": "가", "completion": " "})
    assert caught.value.empty


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "search"}}]
    rows = [
        chat(
            USER,
            turn("assistant", "생각", weight=0),
            turn("user", "찾아 줘"),
            turn("assistant", None, reasoning_content="찾자", tool_calls=[{"type": "function", "function": CALL}]),
            turn("tool", "파도", name="search"),
            ANSWER,
            tools=tools,
        ),
        {"text": "글."},
    ]
    path = write(tmp_path, *rows)
    first = read_records(path)
    again = read_records(write(tmp_path, *(record.as_row() for record in first), name="again.jsonl"))
    assert [(r.messages, r.kind, r.tools) for r in again] == [(r.messages, r.kind, r.tools) for r in first]
    assert read_all(tmp_path / "again.jsonl").unused == {}


def write(folder: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


GOOD = {"prompt": "가", "completion": "나"}


def test_bad_rows_and_unused_fields_are_counted(tmp_path: Path) -> None:
    path = write(
        tmp_path, GOOD | {"id": 1}, GOOD | {"completion": ""}, GOOD | {"id": 2}, {"x": 1}, GOOD | {"completion": ""}
    )
    found = read_all(path)
    assert len(found.records) == 2
    assert [(row.origin.rpartition(":")[2], row.empty) for row in found.bad] == [("2", True), ("4", False), ("5", True)]
    assert found.unused == {"id": 2}
    assert found.notices == (
        f"{path}: fields not used: id",
        f"{path}: left out 3 rows: empty assistant turn (2: line 2, 5);"
        " unknown shape (fields found: x); expected messages, conversations, prompt and completion, or text (1: line 4)",
    )
    assert len(found.required(skip=True)) == 2
    with pytest.raises(InputError, match=r":4: unknown shape(?!.*empty)"):
        found.required(skip_empty=True)
    with pytest.raises(InputError, match=r":2: empty assistant turn"):
        found.required()


def test_nothing_but_bad_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no rows that can be learnt"):
        read_all(write(tmp_path, GOOD | {"completion": ""})).required(skip=True)


def test_columns_give_the_files_fields_our_names(tmp_path: Path) -> None:
    path = write(tmp_path, {"질문": "가", "답변": "나", "prompt": "다른 것"})
    found = read_all(path, columns={"prompt": "질문", "completion": "답변"})
    assert found.records[0].messages == (Message("user", "가"), Message("assistant", "나"))
    with pytest.raises(InputError, match=r"has no field 물음, which `columns` names; it has prompt, 답변, 질문"):
        read_all(path, columns={"prompt": "물음"})


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "data/test-00000-of-00001.jsonl"], 2),
        (["train.jsonl", "valid.jsonl", "test.jsonl"], 1),
        (["a.jsonl", "b/c.jsonl", "validation.jsonl"], 2),
        (["a.jsonl", ".cache/b.jsonl"], 1),
        (["test.jsonl"], 1),
        (["training/x.jsonl", "dev/x.jsonl"], 1),
    ],
)
def test_of_a_folder_the_training_files_are_read(tmp_path: Path, names: list[str], kept: int) -> None:
    for name in names:
        write(tmp_path / "set", GOOD, name=name)
    (tmp_path / "set/dataset_infos.json").write_text("{}")
    found = read_all(tmp_path / "set")
    assert len(found.records) == kept
    visible = [name for name in names if not name.startswith(".")]
    assert len(found.left_out_files) == len(visible) - kept
    assert any("left out: " in notice for notice in found.notices) is (len(visible) > kept)


def test_a_folder_without_rows_and_a_link_out_of_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no rows"):
        read_all(tmp_path / "empty")
    outside = write(tmp_path, GOOD, name="secret.jsonl")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train.jsonl").symlink_to(outside)
    with pytest.raises(InputError, match="is a link to .* out of"):
        read_all(tmp_path / "set")


def test_the_hubs_cache_may_link_to_its_blobs(tmp_path: Path) -> None:
    blob = write(tmp_path / "datasets--a--b/blobs", GOOD, name="0123")
    snapshot = tmp_path / "datasets--a--b/snapshots/main"
    snapshot.mkdir(parents=True)
    (snapshot / "train.jsonl").symlink_to(blob)
    assert len(read_all(snapshot).records) == 1


def test_parquet_folders(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for part in range(2):
        (tmp_path / "data").mkdir(exist_ok=True)
        table = pyarrow.Table.from_pylist([chat(USER, ANSWER), chat(USER, ANSWER)])
        parquet.write_table(table, tmp_path / f"data/train-0000{part}-of-00002.parquet")
    assert len(read_all(tmp_path).records) == 4


def test_meaning_is_a_plain_value() -> None:
    assert interpret(GOOD) == Meaning((Message("user", "가"), Message("assistant", "나")), "chat", "", frozenset())


def test_a_parquet_file_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"text": pyarrow.nulls(20_000_000)}), path)
    with pytest.raises(InputError, match="claims 20000000 rows"):
        read_all(path)


def test_a_parquet_file_of_one_long_value_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    places = pyarrow.array([0] * 300, pyarrow.int32())
    repeated = pyarrow.DictionaryArray.from_arrays(places, ["가" * 300_000])
    parquet.write_table(pyarrow.table({"text": repeated}), path)
    with pytest.raises(InputError, match="times its size"):
        read_all(path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [("[" + "[]," * 400_000 + "[]]", "brackets"), ('{"text": "' + "가" * 6_000_000 + '"}', "more than 16 MiB")],
)
def test_hostile_lines_cost_no_more_than_their_size(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(line + "\n" + json.dumps(GOOD) + "\n", encoding="utf-8")
    found = read_all(path)
    assert reason in found.bad[0].reason
    assert len(found.records) == 1
