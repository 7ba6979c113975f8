from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlx_loopai.cli.filter import command
from mlx_loopai.errors import InputError


def run(*args: str | Path, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args], input=stdin)


def failure(*args: str | Path, stdin: bytes | None = None) -> str:
    result = run(*args, stdin=stdin)
    assert isinstance(result.exception, InputError)
    return str(result.exception)


def test_standard_input_is_one_document() -> None:
    result = run(stdin="그는 천천히 走了过去 문을 열었다 😀\n다음 줄\n")
    assert (result.exit_code, result.stdout) == (0, "그는 천천히 문을 열었다\n다음 줄\n")


def test_clean_text_is_byte_identical(tmp_path: Path) -> None:
    source = tmp_path / "글.txt"
    source.write_bytes("  첫 줄\r\n둘째  줄".encode())
    result = run(source)
    assert result.stdout_bytes == source.read_bytes()
    assert result.stderr == ""


def test_json_document() -> None:
    result = run("-", "--json", stdin="안녕 😀 2번 <b>친구</b>")
    document = json.loads(result.stdout)
    assert document["text"] == "안녕 2번 친구"
    assert document["removed"] == {"emoji": 1, "html": 2}
    assert document["purity"] == 1.0
    assert document["purity_original"] == pytest.approx(5 / 6)


def test_jsonl_keeps_the_record(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"id": 1, "text": "안녕 😀"}\n\n{"id": 2, "text": "그래"}\n', encoding="utf-8")
    lines = [json.loads(line) for line in run(source).stdout.splitlines()]
    assert lines == [{"id": 1, "text": "안녕"}, {"id": 2, "text": "그래"}]


def test_jsonl_messages_and_json_lines(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    record = {"messages": [{"role": "user", "content": "뭐해 😀"}, {"role": "assistant", "content": "책 <b>읽어</b>"}]}
    source.write_text(json.dumps(record) + "\n", encoding="utf-8")
    cleaned = json.loads(run(source).stdout)
    assert [message["content"] for message in cleaned["messages"]] == ["뭐해", "책 읽어"]
    document = json.loads(run(source, "--json", "--field", "messages.*.content", "--quiet").stdout)
    assert document["text"] == "뭐해\n책 읽어"
    assert document["removed"] == {"emoji": 1, "html": 2}
    assert json.loads(run(source, "--field", "messages.0.content").stdout)["messages"][1]["content"] == "책 <b>읽어</b>"


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": "Walked의 뜻은?"}, {"role": "assistant", "content": "@"}]},
        {"conversations": [{"from": "human", "value": "walked의 뜻은?"}], "text": "@"},
        {"prompt": "walked?", "text": "@"},
    ],
)
def test_words_of_a_records_user_stay(tmp_path: Path, record: dict[str, object]) -> None:
    source = tmp_path / "a.jsonl"
    row = json.dumps(record, ensure_ascii=False)
    other = json.dumps({"messages": [7, {"role": 7}], "text": "그는 walked 갔다"})
    field = "messages.1.content" if "messages" in record else "text"
    (tmp_path / "b.jsonl").write_text(other, encoding="utf-8")
    first = row.replace("@", "walked는 걸었다")
    source.write_text(row.replace("@", "walked는 suddenly 걸었다"), encoding="utf-8")
    assert json.loads(run(source, "--field", field).stdout) == json.loads(first)
    assert json.loads(run(tmp_path / "b.jsonl", "--field", "text").stdout)["text"] == "그는 갔다"


def test_report_replaces_the_text(tmp_path: Path) -> None:
    result = run("--report", stdin="안녕 😀😀")
    assert "emoji 2" in result.stdout
    assert "안녕" not in result.stdout
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "가😀"}\n{"text": "나"}\n', encoding="utf-8")
    assert "2 texts" in run(source, "--report").stdout


def test_latin_policy() -> None:
    text = "그는 walked 갔다"
    assert run("--latin", "keep", stdin=text).stdout == text
    assert run("--latin", "acronyms", stdin=text).stdout == "그는 갔다"


def test_warning_when_too_much_went() -> None:
    text = "走了过去然后他打开了门 네"
    assert "removed" in run(stdin=text).stderr
    assert run("--quiet", stdin=text).stderr == ""


def test_empty_input() -> None:
    assert run(stdin="").stdout == ""
    assert json.loads(run("--json", stdin="").stdout)["text"] == ""


def test_a_lone_surrogate_can_be_written(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"id": "\\ud800", "text": "가\\ud800"}\n', encoding="utf-8")
    assert json.loads(run(source).stdout) == {"id": "\ud800", "text": "가"}


def test_bad_input_says_where_and_what_to_do(tmp_path: Path) -> None:
    missing = tmp_path / "없다.txt"
    assert str(missing) in failure(missing)
    assert str(tmp_path) in failure(tmp_path)
    legacy = tmp_path / "old.txt"
    legacy.write_bytes("첫 줄\n".encode() + "둘째".encode("cp949"))
    assert f"{legacy}:2: byte" in failure(legacy)
    assert "<stdin>:1" in failure(stdin=b"\xff")
    broken = tmp_path / "b.jsonl"
    broken.write_text('{"text": "가"}\n{"text": \n', encoding="utf-8")
    assert f"{broken}:2: not JSON" in failure(broken)
    broken.write_bytes(b'{"text": "\xff"}\n')
    assert f"{broken}:1: byte 0xff" in failure(broken)
    broken.write_text('{"body": "가", "n": 3}\n', encoding="utf-8")
    assert "--field" in failure(broken)
    assert "'text'" in failure(broken, "--field", "text")
    assert "int" in failure(broken, "--field", "n")


def test_a_loop_is_a_signal() -> None:
    text = "그는 걸었다. " * 8
    found = json.loads(run("--json", stdin=text).stdout)
    assert (found["looping"], found["removed"]) == (1, {})
    assert "looping  1" in run("--report", stdin=text).stdout
    assert "looping" not in run("--report", stdin="그는 걸었다.").stdout
