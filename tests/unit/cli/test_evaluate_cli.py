"""`evaluate` on a tiny model whose answers are put in its mouth."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from click.testing import CliRunner, Result

from mlx_loopai.cli.evaluate import command
from mlx_loopai.config import LoraOptions
from mlx_loopai.data.samples import corpus
from mlx_loopai.data.samples.skills import Item
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation import suite_run
from mlx_loopai.evaluation.tasks import Asked
from mlx_loopai.models.adapters import save_adapter
from mlx_loopai.models.load import LoadedModel, build_model, hash_base
from mlx_loopai.models.lora import apply_lora, lora_modules
from mlx_loopai.progress import Advance
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.runs.documents.verdict import JudgedSummary
from tests.unit.runs.test_documents import DONE
from tools import nano

TINY = {**nano.CONFIG, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "num_attention_heads": 2,
        "num_key_value_heads": 1}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    texts = [message.content for record in corpus.held_out_texts() for message in record.messages]
    tokenizer = nano.train_tokenizer(texts)
    nano.write_tokenizer(path, tokenizer)
    config = {**TINY, "vocab_size": tokenizer.get_vocab_size()}
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    mx.random.seed(0)
    nano.write_weights(path, build_model(config).parameters())
    return path


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = build_model(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    options = LoraOptions(rank=2)
    apply_lora(model, options, seed=0)
    path = tmp_path_factory.mktemp("run") / "adapter"
    save_adapter(path, model, options, hash_base(folder), system_prompt="짧게 답하세요.")
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLX_LOOPAI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def answering(monkeypatch: pytest.MonkeyPatch, answers: Callable[[Asked[Item], LoadedModel], list[Any]]) -> None:
    """Let `answers` say what a model gives to a task's questions."""

    def run_together(
        loaded: LoadedModel, encoder: ChatEncoder, tasks: Sequence[Asked[Item]], on_progress: Advance
    ) -> Iterator[tuple[int, list[Any]]]:
        done = 0
        for number, task in enumerate(tasks):
            done += len(task.items)
            on_progress(done, task.name)
            yield number, answers(task, loaded)

    monkeypatch.setattr(suite_run, "run_together", run_together)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The base answers right, rounded it loses a fifth, the tuned model answers in JSON; which task was asked of whom."""
    seen: list[tuple[str, str]] = []

    def answers(task: Asked[Item], loaded: LoadedModel) -> list[Any]:
        on = any(layer.enabled for layer in lora_modules(loaded.model).values())
        who = "tuned" if on else "rounded" if loaded.base_hash.endswith("rounded") else "base"
        seen.append((task.name, who))
        known = int(len(task.items) * {"base": 1, "rounded": 0.8, "tuned": 0.25}[who])
        return [[item.answer if place < known else '{"text": []}', True] for place, item in enumerate(task.items)]

    answering(monkeypatch, answers)
    return seen


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args])


def document(*args: str | Path) -> dict[str, Any]:
    result = run(*args, "--json", "--quiet")
    assert result.exception is None, result.exception
    assert result.stderr == ""
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_base_and_tuned_are_one_model_with_the_adapter_off_and_on(
    folder: Path, adapter: Path, calls: list[tuple[str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "evaluation.json"
    found = document("--model", folder, "--adapter", adapter, "--suite", "nano", "--limit", 20, "--out", out)
    assert [who for _, who in calls] == ["base"] * 5 + ["tuned"] * 5 + ["rounded"] * 5
    assert found["retention"] < 0.3
    assert 0.7 < found["noise_floor_min"] <= found["noise_floor"] < 0.8
    assert found["probes"]["english"]["n"] == 20
    assert found["perplexity"] > 1
    assert json.loads(out.read_text(encoding="utf-8")) == found
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_what_is_measured_of_a_run_is_kept_in_it(
    folder: Path, adapter: Path, calls: list[tuple[str, str]], tmp_path: Path
) -> None:
    """`gate RUN` follows, without a file to name; a quick look overwrites nothing."""
    own, place = tmp_path / "run", tmp_path / "run" / "evaluation.json"
    shutil.copytree(adapter, own / "adapter")
    (own / "resolved.yaml").write_text(f"model: {folder}\n", encoding="utf-8")
    quick = run("--model", folder, "--adapter", own, "--suite", "nano", "--limit", 20)
    assert not place.exists()
    assert f"next: mlx-loopai chat --adapter {own}" in quick.stderr
    whole = run("--model", folder, "--adapter", own, "--suite", "nano")
    assert json.loads(place.read_text(encoding="utf-8"))["retention"] < 0.3
    assert f"next: mlx-loopai gate {own}\n" in whole.stderr
    assert "learnt" not in whole.stdout
    JudgedSummary(**DONE, gain=0.2, gain_interval=(0.1, 0.3), verdict="pass").write(RunDirectory(own).verdict)
    before = place.read_bytes()
    again = run("--model", folder, "--adapter", own / "adapter", "--suite", "nano", "--limit", 20)
    assert place.read_bytes() == before
    assert "learnt      0.200 nats per token on held-out rows" in again.stdout
    assert f"next: mlx-loopai gate {own}\n" in again.stderr


def test_retention_is_noted_on_the_adapters_card(
    folder: Path, adapter: Path, calls: list[tuple[str, str]], tmp_path: Path
) -> None:
    own = tmp_path / "adapter"
    shutil.copytree(adapter, own)
    card = own / "README.md"
    own_words = "\n# Licence\nWritten by its owner.\n\n## Use"
    card.write_text(card.read_text(encoding="utf-8").replace("\n## Use", own_words), encoding="utf-8")
    weights = (own / "adapters.safetensors").read_bytes()
    for _ in range(2):
        document("--model", folder, "--adapter", own, "--suite", "nano", "--limit", 20)
    text = card.read_text(encoding="utf-8")
    retention = json.loads((own / "adapter_config.json").read_text(encoding="utf-8"))["mlx_loopai"]["retention"]
    assert f"| worst probe | {retention['worst probe']:.6g} |" in text
    assert text.count("## Retention") == text.count("## Use") == text.count("Written by its owner.") == 1
    assert "Not measured" not in text
    assert (own / "adapters.safetensors").read_bytes() == weights


def test_the_base_is_asked_once(folder: Path, adapter: Path, calls: list[tuple[str, str]], cache: Path) -> None:
    first = document("--model", folder, "--adapter", adapter, "--suite", "nano", "--limit", 5)
    assert document("--model", folder, "--adapter", adapter, "--suite", "nano", "--limit", 5) == first
    assert sum(who == "base" for _, who in calls) == sum(who == "rounded" for _, who in calls) == 5
    for stored in cache.iterdir():
        stored.write_text('{"probes": {}}', encoding="utf-8")
    assert document("--model", folder, "--adapter", adapter, "--suite", "nano", "--limit", 5) == first
    assert sum(who == "base" for _, who in calls) == 10
    document("--model", folder, "--suite", "nano", "--limit", 5)  # no adapter, so another system prompt
    assert sum(who == "base" for _, who in calls) == 15


def test_a_cache_that_cannot_be_written_does_no_harm(
    folder: Path, calls: list[tuple[str, str]], cache: Path, tmp_path: Path
) -> None:
    cache.write_text("a file where a folder should be", encoding="utf-8")
    assert document("--model", folder, "--suite", "nano", "--limit", 5)["retention"] is None


def test_the_table_for_people(folder: Path, adapter: Path, calls: list[tuple[str, str]]) -> None:
    result = run("--model", folder, "--adapter", adapter, "--suite", "nano", "--limit", 20)
    assert "right->wrong" in result.stdout
    assert "facts_ko" in result.stdout
    assert "retention   0." in result.stdout
    assert "noise floor 0.7" in result.stdout
    assert "perplexity" in result.stdout
    assert "right->wrong" not in run("--model", folder, "--suite", "nano", "--limit", 20).stdout


@pytest.mark.timeout(120)
def test_a_base_that_knows_nothing_has_no_retention(folder: Path, adapter: Path) -> None:
    """No answers put in its mouth: the real engine with random weights."""
    result = run("--model", folder, "--adapter", adapter, "--suite", "nano", "--limit", 2, "--quiet")
    assert isinstance(result.exception, InputError)
    assert "well above chance on no task" in str(result.exception)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--out", "{tmp}"), "a folder"),
        (("--out", "{tmp}/none/a.json"), "no folder"),
        (("--adapter", "{tmp}"), "no adapter here"),
        (("--adapter", "{tmp}/none"), "no such folder"),
        (("--model", "{tmp}/none"), "no such folder"),
    ],
)
def test_bad_input_is_said_before_the_work(tmp_path: Path, args: tuple[str, str], said: str) -> None:
    result = run(*(arg.format(tmp=tmp_path) for arg in args))
    assert isinstance(result.exception, InputError)
    assert said in str(result.exception)


def test_tasks_near_chance_are_left_out_and_said(folder: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base that knows the facts alone."""

    answering(
        monkeypatch,
        lambda task, _: [[item.answer if task.name == "facts_ko" else "", True] for item in task.items],
    )
    result = run("--model", folder, "--adapter", adapter, "--suite", "nano", "--limit", 20)
    assert "retention counts the tasks on which this base is well above chance: facts_ko\n" in result.stderr
    assert result.stdout.count("base too near chance") == 4


def test_an_adapter_of_another_base_is_refused(folder: Path, adapter: Path, tmp_path: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    config["mlx_loopai"]["base_hash"] = "0" * 64
    other = tmp_path / "other"
    other.mkdir()
    (other / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    result = run("--model", folder, "--adapter", other)
    assert isinstance(result.exception, InputError)
    assert "another base" in str(result.exception)
