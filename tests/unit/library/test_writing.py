"""Text from Python: the texts that the commands write, and errors that name the argument."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import mlx_loopai as m
from mlx_loopai.cli.main import commands

QUESTION = "태국의 수도는 어디인가요?"


@pytest.fixture(scope="module")
def nano() -> m.Model:
    return m.load(dtype="fp32")


def test_it_is_the_commands_text(nano: m.Model) -> None:
    shown = CliRunner().invoke(commands, ["generate", QUESTION, "--seed", "3", "--json", "--quiet"])
    assert shown.exception is None
    document = json.loads(shown.stdout)
    text = m.generate(QUESTION, nano, seed=3)
    assert text.text == document["text"]
    assert (text.finished, text.generated_tokens, text.seed) == (True, document["generated_tokens"], 3)
    assert m.generate(QUESTION, seed=3) == text


def test_a_stream_is_the_text_in_pieces(nano: m.Model) -> None:
    stream = m.stream(QUESTION, nano)
    pieces = list(stream)
    assert len(pieces) > 1
    assert "".join(pieces) == stream.result.text == nano.generate(QUESTION).text


def test_many_prompts_and_turns(nano: m.Model) -> None:
    turns = [
        {"role": "system", "content": "짧게."},
        {"role": "user", "content": "안녕?"},
        {"role": "assistant", "content": "안녕하세요."},
        {"role": "user", "content": QUESTION},
    ]
    texts = nano.generate_all([QUESTION, turns], temperature=0)
    assert texts[0].text == nano.generate(QUESTION, temperature=0).text
    assert texts[1].prompt_tokens > texts[0].prompt_tokens
    assert nano.generate_all([]) == []


def test_a_cut_text_says_so(nano: m.Model) -> None:
    text = nano.generate("호랑이 이야기를 들려줘.", max_tokens=2)
    assert (text.finished, text.generated_tokens) == (False, 2)
    assert "�" not in text.text


def test_examples_and_a_system_prompt(nano: m.Model, tmp_path: Path) -> None:
    rows = tmp_path / "few.jsonl"
    rows.write_text('{"prompt": "하나", "completion": "둘"}\n', encoding="utf-8")
    bare = nano.generate("셋", max_tokens=1).prompt_tokens
    assert m.load(examples=rows).generate("셋", max_tokens=1).prompt_tokens > bare
    assert m.load(examples="시", system="짧게.").generate("셋", max_tokens=1).prompt_tokens > bare
    assert m.generate("셋", system="짧게.", max_tokens=1).prompt_tokens > bare


def test_errors_name_the_argument(nano: m.Model, tmp_path: Path) -> None:
    for call, argument in (
        (lambda: nano.generate(QUESTION, temprature=1), "`temprature`: there is no such option; did you mean"),
        (lambda: nano.generate(QUESTION, top_p=2, seed=-1), "`top_p` 2: .*; `seed` -1: "),
        (lambda: nano.generate(QUESTION, scripts="klingon"), "`scripts` klingon: unknown part"),
        (lambda: nano.generate("가 " * 2000), "lower `max_tokens`"),
        (lambda: nano.generate([{"role": "assistant", "content": "네"}]), "`prompt`: the last turn is the assistant's"),
        (lambda: m.generate(QUESTION, nano, adapter=tmp_path), "`adapter`: the model is loaded already"),
        (lambda: m.generate(QUESTION, tmp_path / "none"), "`model` .*: no such folder"),
        (lambda: m.load(examples="추리"), "`examples` 추리: neither a file nor a genre"),
    ):
        with pytest.raises(m.InputError, match=argument) as caught:
            call()
        assert "--" not in str(caught.value)
