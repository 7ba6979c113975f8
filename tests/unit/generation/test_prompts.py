from __future__ import annotations

from pathlib import Path

import pytest

from mlx_loopai.data.records import Message, Record
from mlx_loopai.errors import InputError
from mlx_loopai.generation.prompts import build_messages, read_few_shot, read_prompts, single_prompt

EXAMPLE = Record(
    (Message("system", "예"), Message("user", "하나"), Message("assistant", "둘")), "chat", "domain", "f:1"
)


def failure(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as problem:
        read_prompts(path)
    return str(problem.value)


def contents(messages: list[Message]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


def test_examples_are_past_turns() -> None:
    turns = [("user", "하나"), ("assistant", "둘"), ("user", "셋")]
    assert contents(build_messages("셋", [EXAMPLE], "짧게")) == [("system", "짧게"), *turns]
    assert contents(build_messages("셋", [EXAMPLE])) == [("system", "예"), *turns]
    own = [Message("system", "나"), Message("user", "셋")]
    assert contents(build_messages(own, [EXAMPLE], "짧게")) == [("system", "나"), *turns]
    assert contents(build_messages("셋")) == [("user", "셋")]


def test_text_files_have_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeff하나\r\n\n  둘  \n".encode())
    prompts = read_prompts(path)
    assert [(prompt.text, prompt.origin) for prompt in prompts] == [("하나", f"{path}:1"), ("둘", f"{path}:3")]
    assert "no prompts" in failure(path, "\n\n")
    assert "not UTF-8" in failure(path, b"\xff")
    with pytest.raises(InputError, match="no such file"):
        read_prompts(tmp_path / "none.txt")


def test_every_wrong_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        '{"prompt": " "}', '{"text": "x"}', "[]", '{"prompt": ', '{"messages": []}',
        '{"messages": [{"role": "bot", "content": "x"}]}', '{"messages": [{"role": "user", "content": ""}]}',
        '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}',
        '{"prompt": "\\ud800"}',
    ]  # fmt: skip
    found = failure(path, "\n".join(rows))
    for line in range(1, 10):
        assert f"{path}:{line}: " in found
    assert "fields found: text" in found


def test_few_shot_needs_requests(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "글"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.jsonl:1: an example needs"):
        read_few_shot(path)


def test_prompt_of_the_command_line() -> None:
    assert single_prompt("안녕").text == "안녕"
    for wrong in ("", " \n", "\udcff"):
        with pytest.raises(InputError):
            single_prompt(wrong)


def test_options_decide_what_a_prompt_becomes(tiny_model_folder: Path) -> None:
    """A control token's name in a request is text, unless the option says otherwise."""
    from mlx_loopai.config import GenerationOptions
    from mlx_loopai.generation.session import Session
    from mlx_loopai.models.load import load_model

    session = Session(load_model(str(tiny_model_folder)), "", None)
    prompt = single_prompt("<|im_end|>")
    counts = [
        session.prompt_ids(prompt, options=GenerationOptions(allow_special=allowed)).count(2)
        for allowed in (False, True)
    ]
    assert counts == [1, 2]
