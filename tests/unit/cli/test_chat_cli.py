from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from mlx_loopai.cli import chat as chat_cli
from mlx_loopai.cli.main import commands
from mlx_loopai.data.records import read_all
from mlx_loopai.errors import InputError
from mlx_loopai.generation import answer_stream

SHORT = ("--temperature", "0", "--max-tokens", "12")


def talk(*lines: str | bytes, options: tuple[str, ...] = ()) -> Result:
    text = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    return CliRunner().invoke(commands, ["chat", *SHORT, *options], input=text)


def test_a_pipe_is_answered_line_by_line() -> None:
    result = talk("한국의 수도는?", "", "/undo", "한국의 수도는?")
    assert result.exit_code == 0, result.exception
    first, second = result.stdout.splitlines()
    assert first == second
    assert "서울" in first
    assert "taken back: 한국의 수도는?" in result.stderr


def test_json_lines(tmp_path: Path) -> None:
    saved = tmp_path / "talk.jsonl"
    result = talk("한국의 수도는?", "안녕?", f"/save {saved}", "/exit", "?", options=("--json", "--system", "짧게."))
    assert result.exit_code == 0, result.exception
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(answers) == 2
    assert answers[1]["read_tokens"] < answers[1]["prompt_tokens"] - answers[0]["prompt_tokens"]
    assert {"text", "generated_tokens", "masked_mass", "purity", "seed", "finished"} <= set(answers[0])
    row = json.loads(saved.read_text(encoding="utf-8"))
    assert [turn["role"] for turn in row["messages"]] == ["system", *["user", "assistant"] * 2]
    again = talk("/undo", "/system", "/reset", "/undo", "/help", options=("--load", str(saved)))
    assert "taken back: 안녕?" in again.stderr
    assert "system prompt: 짧게." in again.stderr
    assert "nothing to take back" in again.stderr
    assert "/save FILE" in again.stderr


def test_options_can_be_changed_and_answers_asked_for_anew() -> None:
    asked = ("호랑이 이야기를 들려줘.", "/set temperature 1.2", "/retry", "/retry", "/set max_tokens 2", "/retry")
    result = talk(*asked, options=("--json",))
    assert result.exit_code == 0, result.exception
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["seed"] for answer in answers] == [0, 1, 2, 3]
    assert len({answer["text"] for answer in answers}) == 4
    assert {answer["prompt_tokens"] for answer in answers} == {answers[0]["prompt_tokens"]}
    assert answers[-1]["generated_tokens"] == 2
    assert "temperature: 1.2" in result.stderr
    assert "cut after 2 tokens" in result.stderr


def test_what_is_thought_of_answers_is_kept_as_rows(tmp_path: Path) -> None:
    kept = tmp_path / "feedback.jsonl"
    asked = (
        "호랑이 이야기를 들려줘.",
        "/good",
        "/set temperature 1.2",
        "/again",
        "/bad",
        "/edit 옛날에 호랑이가 살았다.",
        "/bad",
    )
    result = talk(*asked, options=("--json", "--feedback", str(kept)))
    assert result.exit_code == 0, result.exception
    first, second = (json.loads(line)["text"] for line in result.stdout.splitlines())
    vote, pick, edit, last = (json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines())
    prompt = [{"role": "user", "content": asked[0]}]
    assert (vote["prompt"], vote["completion"][0]["content"], vote["label"]) == (prompt, first, True)
    # The second was the worse one, so the conversation goes on with the first.
    assert (pick["chosen"][0]["content"], pick["rejected"][0]["content"]) == (first, second)
    assert (edit["chosen"][0]["content"], edit["rejected"][0]["content"]) == ("옛날에 호랑이가 살았다.", first)
    assert (last["completion"][0]["content"], last["label"]) == ("옛날에 호랑이가 살았다.", False)
    assert [row["source"] for row in (vote, pick, edit, last)] == ["vote", "pick", "edit", "vote"]
    assert len(read_all(kept).judged) == 4


def test_a_judgement_is_of_one_answer_when_something_else_was_said(tmp_path: Path) -> None:
    kept = tmp_path / "feedback.jsonl"
    result = talk(
        "안녕?", "/set temperature 1.2", "/again", "한국의 수도는?", "/good", options=("--feedback", str(kept))
    )
    assert result.exit_code == 0, result.exception
    (row,) = (json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines())
    assert row["label"] is True
    assert [turn["role"] for turn in row["prompt"]] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("/retry", "nothing was answered yet"),
        ("/set warmth 3", "no such option"),
        ("/good", "start chat with --feedback FILE"),
        ("/set top_p 3", "--top-p '3'"),
        ("/set scripts klingon", "unknown part"),
        ("/save ~nobody-of-that-name/x.jsonl", "no such home folder"),
        ("/dance", "no such command"),
        ("/save", "which file"),
        ("/save notes", "writes and reads .jsonl files; write /save notes.jsonl"),
        ("/save chat.md", "writes and reads .jsonl files; write /save chat.jsonl"),
        ("/export", "write /export FILE.md"),
        ("/length short", "not a number of characters"),
        ("/load /no/such.jsonl", "no such file"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_what_a_pipe_cannot_have_ends_it(line: str | bytes, reason: str) -> None:
    result = talk(line)
    assert isinstance(result.exception, InputError)
    assert reason in str(result.exception)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Standard input as a terminal, on which somebody types these lines or presses these keys."""

    def type_lines(*lines: str | type[BaseException]) -> None:
        waiting = iter(lines)

        def read() -> str:
            line = next(waiting)
            if isinstance(line, str):
                return line
            raise line

        monkeypatch.setattr(chat_cli, "open_line", lambda: SimpleNamespace(read=read))
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
        monkeypatch.setenv("MLX_LOOPAI_CACHE", str(tmp_path))

    return type_lines


def run(capsys: pytest.CaptureFixture[str]) -> Any:
    commands.main(["chat", *SHORT], standalone_mode=False)
    return capsys.readouterr()


def test_ctrl_c_stops_the_answer_and_keeps_the_session(
    terminal: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream, calls = answer_stream.stream, []

    def stopped_once(*arguments: Any) -> Iterator[Any]:
        calls.append(arguments)
        for number, piece in enumerate(stream(*arguments)):
            if len(calls) == 1 and number == 5:  # the filter holds back how a line begins
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(answer_stream, "stream", stopped_once)
    terminal("한국의 수도는?", KeyboardInterrupt, "/dance", "한국의 수도는?", EOFError)
    printed = run(capsys)
    stopped, answered, *_ = printed.out.splitlines()
    assert stopped.endswith(" …")
    assert answered
    assert "Ctrl-D leaves" in printed.err
    assert "/dance: no such command" in printed.err
    # The stopped answer is part of what the second one read.
    assert len(calls[1][1].prompt) > len(calls[0][1].prompt)


def test_what_was_said_is_kept_and_gone_on_with(
    terminal: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal("한국의 수도는?", "/export " + str(tmp_path / "talk.md"), EOFError)
    first = run(capsys)
    assert first.err.startswith("nano; Ctrl-D leaves")
    assert (tmp_path / "talk.md").read_text(encoding="utf-8").startswith("## 한국의 수도는?\n\n")
    (kept,) = (tmp_path / "chats").glob("*.jsonl")
    terminal("안녕?", EOFError)
    commands.main(["chat", *SHORT, "--continue"], standalone_mode=False)
    assert "the conversation goes on after 1 exchanges" in capsys.readouterr().err
    assert list((tmp_path / "chats").glob("*.jsonl")) == [kept]
    turns = json.loads(kept.read_text(encoding="utf-8"))["messages"]
    assert [turn["content"] for turn in turns if turn["role"] == "user"] == ["한국의 수도는?", "안녕?"]


def test_nothing_to_go_on_with_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLX_LOOPAI_CACHE", str(tmp_path))
    result = talk("안녕?", options=("--continue",))
    assert "no conversation is kept yet" in str(result.exception)


def test_an_answer_that_was_cut_is_no_row_to_learn(tmp_path: Path) -> None:
    saved = tmp_path / "talk.jsonl"
    result = talk("호랑이 이야기를 들려줘.", "/set max_tokens 3", "호랑이 이야기를 들려줘.", f"/save {saved}")
    assert result.exit_code == 0, result.exception
    answers = [
        turn for turn in json.loads(saved.read_text(encoding="utf-8"))["messages"] if turn["role"] == "assistant"
    ]
    assert answers[1]["weight"] == 0
    assert talk("/undo", options=("--load", str(saved))).exit_code == 0


def test_a_length_ends_an_answer_at_a_sentence() -> None:
    asked = ("/set max_tokens 200", "/length 20", "호랑이 이야기를 들려줘.", "/temperature", "/length 0")
    result = talk(*asked, options=("--json",))
    assert result.exit_code == 0, result.exception
    assert "length: about 20 characters" in result.stderr
    assert "ended at the length of /length" in result.stderr
    assert "temperature: 0.0" in result.stderr
    assert "length: where the model ends" in result.stderr


def test_ctrl_c_in_a_pipe_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        sys, "stdin", type("Pipe", (), {"isatty": lambda self: False, "readline": staticmethod(interrupted)})()
    )
    with pytest.raises(click.Abort):
        commands.main(["chat", *SHORT, "--quiet"], standalone_mode=False)


def test_ctrl_c_stops_an_answer_even_where_its_exception_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    def pieces() -> Iterator[str]:
        yield "옛날"
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        yield " 옛적에"
        yield " 호랑이가"

    before = signal.getsignal(signal.SIGINT)
    turn: Any = SimpleNamespace(pieces=pieces())
    assert not chat_cli._shown(turn, chat_cli._Console(as_json=False, quiet=False))
    assert capsys.readouterr().out == "옛날 …\n"
    assert signal.getsignal(signal.SIGINT) is before
