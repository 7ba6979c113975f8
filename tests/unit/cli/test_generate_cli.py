from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
import regex
from click.testing import CliRunner, Result

from mlx_loopai.cli.answering import warn_of_cut, warn_of_emptied
from mlx_loopai.cli.main import commands
from mlx_loopai.config import GenerationOptions, LoraOptions
from mlx_loopai.errors import InputError, Interrupted, LoopaiError
from mlx_loopai.generation.answer_stream import Writing
from mlx_loopai.generation.answers import Standard
from mlx_loopai.generation.answers_file import AnswersFile
from mlx_loopai.generation.engine import Piece
from mlx_loopai.generation.request import Request
from mlx_loopai.models.adapters import save_adapter
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import apply_lora, lora_modules
from mlx_loopai.text.filter import Policy

SHORT = ("--max-tokens", "6")


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(commands, ["generate", *(str(arg) for arg in args)])


def document(*args: str | Path) -> dict[str, Any]:
    result = run(*args, "--json", "--quiet")
    assert result.exception is None, result.exception
    assert result.stderr == ""
    return json.loads(result.stdout)


def failure(*args: str | Path) -> str:
    result = run(*args)
    assert isinstance(result.exception, InputError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


@pytest.fixture(scope="module")
def run_folder(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an adapter that changes the tiny model a lot, trained with a system prompt."""
    folder = tmp_path_factory.mktemp("run")
    loaded = load_model(str(tiny_model_folder), "fp32")
    options = LoraOptions(rank=4)
    apply_lora(loaded.model, options, seed=0)
    mx.random.seed(0)
    for module in lora_modules(loaded.model).values():
        module.lora_b = mx.random.normal(module.lora_b.shape)
    save_adapter(folder / "adapter", loaded.model, options, loaded.base_hash, system_prompt="너는 작가다.")
    return folder


def test_one_prompt(tiny_model_folder: Path) -> None:
    asked = ("안녕?", "--model", tiny_model_folder, *SHORT)
    found = document(*asked)
    expected = {"text", "prompt_tokens", "generated_tokens", "tokens_per_s", "seed", "finished", "sources", "attempts"}
    assert set(found) == expected | {"adapter", "scripts", "masked_mass", "argmax_masked", "purity", "removed"}
    assert found["generated_tokens"] == 6 or found["finished"]
    assert found["prompt_tokens"] > 5
    assert run(*asked).stdout == found["text"] + "\n"
    assert document(*asked)["text"] == found["text"]
    assert document(*asked, "--seed", "1")["text"] != found["text"]


def test_scripts_decide_what_is_written(tiny_model_folder: Path) -> None:
    asked = ("안녕?", "--model", tiny_model_folder, "--max-tokens", "60", "--temperature", "1.5")
    korean, anything = document(*asked, "--scripts", "ko"), document(*asked, "--scripts", "off")
    assert not any(char.isascii() and char.isalpha() for char in korean["text"])
    assert any(char.isascii() and char.isalpha() for char in anything["text"])
    assert 0 < korean["masked_mass"] < 1
    assert (korean["scripts"], anything["scripts"], anything["masked_mass"]) == ("ko", "off", 0)
    # A model that writes at random needs much masking, and the command says so.
    assert "overruled" in run(*asked, "--scripts", "ko").stderr
    assert "--scripts ko+elvish" in failure("안녕?", "--scripts", "ko+elvish")


def test_genre_and_best_of(tiny_model_folder: Path) -> None:
    asked = ("바다", "--model", tiny_model_folder, *SHORT)
    plain, shown = document(*asked), document(*asked, "--genre", "시", "--best-of", "3")
    assert shown["prompt_tokens"] > plain["prompt_tokens"]
    assert document(*asked, "--genre", "시", "--best-of", "3")["text"] == shown["text"]
    assert "--genre 추리" in failure(*asked, "--genre", "추리")


def test_a_file_of_prompts(tiny_model_folder: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    chat = [{"role": "system", "content": "짧게."}, {"role": "user", "content": "뭐해?"}]
    rows = [{"prompt": "하나"}, {"messages": chat}, {"prompt": "둘둘둘"}]
    source.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    options = ("--model", tiny_model_folder, *SHORT, "--temperature", "0")
    found = document("--prompts", source, *options, "--out", out)
    assert [row["prompt"] for row in found["results"]] == ["하나", "뭐해?", "둘둘둘"]
    assert [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] == found["results"]
    assert [(row["index"], row["id"]) for row in found["results"]] == [(0, "1"), (1, "2"), (2, "3")]
    assert found["results"][2]["text"] == document("둘둘둘", *options)["text"]
    assert sum(row["generated_tokens"] for row in found["results"]) == found["generated_tokens"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "out.jsonl"]
    lines = tmp_path / "a.txt"
    lines.write_text("하나\n\n둘둘둘\n", encoding="utf-8")
    texts = [found["results"][0]["text"], found["results"][2]["text"]]
    shown = run("--prompts", lines, *options, "--quiet").stdout
    assert shown == f"> 하나\n{texts[0]}\n\n> 둘둘둘\n{texts[1]}\n"


def test_few_shot_and_system_prompt(tiny_model_folder: Path, tmp_path: Path) -> None:
    examples = tmp_path / "few.jsonl"
    examples.write_text(
        '{"prompt": "하나", "completion": "둘"}\n{"prompt": "셋", "completion": "넷"}\n', encoding="utf-8"
    )
    asked = ("다섯", "--model", tiny_model_folder, *SHORT)
    bare = document(*asked)["prompt_tokens"]
    shown = document(*asked, "--few-shot", examples)["prompt_tokens"]
    assert shown > 2 * bare
    assert document(*asked, "--few-shot", examples, "--system", "짧게.")["prompt_tokens"] > shown


def test_adapter_and_its_system_prompt(tiny_model_folder: Path, run_folder: Path) -> None:
    asked = ("안녕?", "--model", tiny_model_folder, *SHORT, "--temperature", "0")
    base = document(*asked)
    adapted = document(*asked, "--adapter", run_folder / "adapter")
    assert adapted["text"] != base["text"]
    assert adapted["prompt_tokens"] > base["prompt_tokens"]
    assert document(*asked, "--adapter", run_folder)["text"] == adapted["text"]
    assert document(*asked, "--adapter", run_folder, "--system", "")["prompt_tokens"] == base["prompt_tokens"]


def test_wrong_usage(tiny_model_folder: Path, run_folder: Path, tmp_path: Path) -> None:
    model = ("--model", tiny_model_folder)
    lines = tmp_path / "a.txt"
    lines.write_text("하나\n", encoding="utf-8")
    assert "no prompt" in failure(*model)
    assert "both" in failure("안녕", "--prompts", lines, *model)
    assert "empty" in failure("  ", *model)
    assert "UTF-8" in failure("\udcff", *model)
    assert "--out" in failure("안녕", "--out", tmp_path / "o.jsonl", *model)
    assert "file of prompts" in failure("--prompts", lines, "--out", lines, *model)
    assert "no folder" in failure("--prompts", lines, "--out", tmp_path / "none" / "o.jsonl", *model)
    assert "is a folder" in failure("--prompts", lines, "--out", tmp_path, *model)
    assert "--top-p 2.0" in failure("안녕", "--top-p", "2", *model)
    assert "no such folder" in failure("안녕", "--model", tmp_path / "없다")
    assert "config.json" in failure("안녕", "--model", tmp_path)
    assert "no such folder" in failure("안녕", *model, "--adapter", tmp_path / "없다")
    assert "no adapter" in failure("안녕", *model, "--adapter", tmp_path)


def test_adapter_of_another_base(tiny_model_folder: Path, run_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "adapter"
    other.mkdir()
    for file in (run_folder / "adapter").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "adapter_config.json").read_text(encoding="utf-8"))
    config["mlx_loopai"]["base_hash"] = "0" * 64
    (other / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "another base" in failure("안녕", "--model", tiny_model_folder, "--adapter", other)


def test_a_half_done_file_is_gone_on_with(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    rows = [{"prompt": f"{place} 번째 이야기", "id": f"글-{place}"} for place in range(5)]
    source.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    asked = ("--prompts", source, "--model", tiny_model_folder, *SHORT, "--temperature", "1.1", "--out")
    expected = document(*asked, tmp_path / "whole.jsonl")["results"]
    assert [row["id"] for row in expected] == [row["id"] for row in rows]

    kept = AnswersFile.add

    def interrupted(self: AnswersFile, index: int, values: dict[str, Any]) -> None:
        if len(self.done) == 2:
            raise KeyboardInterrupt
        kept(self, index, values)

    monkeypatch.setattr(AnswersFile, "add", interrupted)
    result = run(*asked, out, "--quiet")
    assert isinstance(result.exception, Interrupted)
    assert "2 of 5 answers are written; the same command continues there" in str(result.exception)
    monkeypatch.setattr(AnswersFile, "add", kept)
    with out.open("a", encoding="utf-8") as file:
        file.write('{"index": 4, "te')
    result = run(*asked, out)
    assert "2 of 5 answers are there already" in result.stderr
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    # All done: nothing is written again, and other settings do not write over it.
    assert document(*asked, out)["results"] == expected
    assert "other prompts or settings" in failure(*asked, out, "--seed", "9")
    source.write_text('{"prompt": "하나"}\n{"pompt": "둘"}\n', encoding="utf-8")
    assert "a.jsonl:2: neither prompt nor messages" in failure(*asked, out)


def test_answers_are_judged_and_written_again(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("안녕?", "--model", tiny_model_folder, *SHORT)
    found = document(*asked, "--max-removed", "1")
    assert found["text"] == document(*asked)["text"]
    assert (found["attempts"], found["seed"]) == (1, 0)
    assert run(*asked, "--max-removed", "1").stdout == found["text"] + "\n"

    monkeypatch.setattr(Standard, "problem", lambda self, text, quoted: f"it is not {self.max_removed}")
    result = run(*asked, "--max-removed", "0.2", "--retries", "2", "--quiet")
    assert isinstance(result.exception, LoopaiError)
    assert result.exception.exit_status == 1
    assert "no answer was accepted in 3 attempts: it is not 0.2; ask in other words" in str(result.exception)
    assert (result.stdout, result.stderr) == ("", "")
    source, out = tmp_path / "a.txt", tmp_path / "out.jsonl"
    source.write_text("하나\n둘\n", encoding="utf-8")
    result = run("--prompts", source, "--out", out, *asked[1:], "--retries", "1")
    assert "2 of 2 answers were not accepted and are left empty; the first, 1: it is not 0.1" in str(result.exception)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(row["text"], row["attempts"]) for row in rows] == [("", 2), ("", 2)]


def test_a_prompt_cache_is_kept_and_checked(tiny_model_folder: Path, run_folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "few.safetensors"
    asked = ("안녕?", "--model", tiny_model_folder, *SHORT, "--genre", "시", "--prompt-cache", cache)
    expected = document(*asked[:-2])["text"]
    assert document(*asked)["text"] == expected
    written = cache.stat().st_mtime_ns
    assert document(*asked)["text"] == expected
    assert document("다른 것", *asked[1:])["text"] == document("다른 것", *asked[1:-2])["text"]
    assert cache.stat().st_mtime_ns == written
    adapted = (*asked, "--adapter", run_folder)
    assert "computed anew, since it is of another adapter" in run(*adapted).stderr
    assert document(*adapted)["text"] == document(*adapted[:-4], "--adapter", run_folder)["text"]
    cache.write_bytes(b"mine")
    assert "not a prompt cache" in failure(*asked)
    assert cache.read_bytes() == b"mine"
    assert ".safetensors" in failure(*asked[:-1], tmp_path / "cache.npz")


def test_a_draft_model_and_a_form(tiny_model_folder: Path, tmp_path: Path) -> None:
    asked = ("안녕?", "--model", tiny_model_folder, *SHORT)
    assert document(*asked, "--draft-model", tiny_model_folder)["text"] == document(*asked)["text"]
    assert "vocabulary" in failure(*asked, "--draft-model", "nano")
    assert "--best-of" in failure(*asked, "--draft-model", "nano", "--best-of", "2")
    assert "give one of them" in failure(*asked, "--regex", "a", "--json-schema", tmp_path / "a.json")
    pytest.importorskip("llguidance")
    formed = document(*asked[:-1], "20", "--regex", "(가나|다라)[0-9]")["text"]
    assert regex.fullmatch("(가나|다라)[0-9]", formed)
    for more in ((), ("--best-of", "2")):
        result = run(*asked, "--regex", "[가-힣]{9}", *more)
        assert "its form is not complete after 6 tokens" in str(result.exception)


def test_a_text_that_was_cut_is_said_to_be(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("안녕?", "--model", tiny_model_folder, "--temperature", "0")
    cut = run(*asked, "--max-tokens", "3")
    assert "the text was cut after 3 tokens; --max-tokens allows more" in cut.stderr
    lines = tmp_path / "a.txt"
    lines.write_text("하나\n둘\n", encoding="utf-8")
    assert "2 of 2 texts were cut after 3 tokens" in run("--prompts", lines, *asked[1:], "--max-tokens", "3").stderr
    # Nobody chose a length: it is what the context leaves.
    warn_of_cut([{"finished": False, "generated_tokens": 33}], GenerationOptions())
    assert "cut at the end of the model's context; shorten the prompt" in capsys.readouterr().err


def test_a_text_of_which_nothing_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    writing = Writing(Request([5], GenerationOptions(), policy=Policy()))
    writing.take(Piece("```\nprint()\n```", 7, False))
    writing.end()
    warn_of_emptied(writing.text())
    assert "the filter removed the whole text; --no-filter shows it" in capsys.readouterr().err


def test_a_prompt_beyond_the_context_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    model = ("--model", tiny_model_folder)
    said = failure("가 " * 900, *model, "--max-tokens", "5")
    assert "more than the context of 1024 together; shorten it, or lower --max-tokens" in said
    assert "its answer may have 2000" in failure("안녕?", *model, "--max-tokens", "2000")
    lines = tmp_path / "a.txt"
    lines.write_text(f"하나\n{'가 ' * 900}\n{'나 ' * 900}\n", encoding="utf-8")
    said = failure("--prompts", lines, *model)
    assert f"{lines}:2: the prompt has" in said
    assert f"{lines}:3: the prompt has" in said
    assert f"{lines}:1" not in said


def test_stop_strings_and_the_filter(tiny_model_folder: Path) -> None:
    asked = ("안녕?", "--model", tiny_model_folder, "--max-tokens", "60", "--temperature", "1.5", "--scripts", "off")
    whole = document(*asked)
    stop = whole["text"][10:12]
    stopped = document(*asked, "--stop", stop)
    assert stopped["text"] == whole["text"].partition(stop)[0]
    assert stopped["finished"]
    assert whole["removed"] == {}  # the scripts are off: nothing is cleaned
    cleaned = document(*asked, "--filter")
    assert cleaned["removed"]
    assert cleaned["text"] != whole["text"]
    assert run(*asked, "--filter").stdout == cleaned["text"] + "\n"
    assert document(*asked, "--filter", "--best-of", "1", "--max-removed", "1")["text"] == cleaned["text"]
