from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx_loopai  # noqa: F401

# isort: split
import mlx.core as mx
import pytest

from mlx_loopai.cli.main import main
from mlx_loopai.config import LoraOptions
from mlx_loopai.errors import InputError
from mlx_loopai.models.adapters import save_adapter
from mlx_loopai.models.hub import upload
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.models.model_card import with_licence
from mlx_loopai.models.released import licence_of
from tests.unit.cli.conftest import Ended


@pytest.fixture(scope="module")
def adapters(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Adapters of rank 4, 8 and 16 on the tiny model."""
    folder = tmp_path_factory.mktemp("adapters")
    for rank in (4, 8, 16):
        options = LoraOptions(rank=rank, alpha=2.0 * rank)
        loaded = load_model(str(tiny_model_folder), "fp32")
        for layer in apply_lora(loaded.model, options, seed=rank).values():
            layer.lora_b = 0.1 * mx.random.normal(layer.lora_b.shape)
        save_adapter(folder / f"r{rank}", loaded.model, options, loaded.base_hash)
    return [folder / f"r{rank}" for rank in (4, 8, 16)]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main(["adapters", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_merge_inspect_export_import(adapters: list[Path], tmp_path: Path, capsys: Any) -> None:
    merged = run(capsys, "merge", *adapters, "--out", tmp_path / "cat")
    assert (merged["rank"], merged["error_max"], merged["modules"]) == (28, 0.0, 14)
    small = run(
        capsys, "merge", *adapters, "--method", "svd", "--rank", 8, "--weights", "1,0.5,1", "--out", tmp_path / "svd"
    )
    assert 0 < small["error_max"] < 1
    seen = run(capsys, "inspect", tmp_path / "svd")
    assert (seen["rank"], seen["modules"], seen["mlx_loopai"]["merged"]["method"]) == (8, 14, "svd")
    assert all(norm > 0 for norm in seen["norms"].values())
    run(capsys, "export", tmp_path / "cat", "--out", tmp_path / "peft")
    back = run(capsys, "import", tmp_path / "peft", "--out", tmp_path / "back")
    assert (back["rank"], back["scale"]) == (28, merged["scale"])
    one, two = (mx.load(str(tmp_path / name / "adapters.safetensors")) for name in ("cat", "back"))
    assert one.keys() == two.keys()
    assert all(mx.array_equal(one[name], two[name]) for name in one)


def test_fuse(adapters: list[Path], tiny_model_folder: Path, tmp_path: Path, capsys: Any) -> None:
    done = run(capsys, "fuse", adapters[0], "--base", tiny_model_folder, "--out", tmp_path / "out")
    assert done["share_min"] > 0.99
    assert done["widened"] == []
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "nowhere"],
        ["merge", "nowhere", "--out", "x"],
        ["import", "nowhere", "--out", "x"],
        ["export", "nowhere", "--out", "x"],
        ["fuse", "nowhere", "--base", "nano", "--out", "x"],
    ],
)
def test_bad_input_is_one_line(arguments: list[str], capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["adapters", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "nowhere" in error
    assert not list(tmp_path.iterdir())


class FakeHub:
    """Stands for huggingface_hub's HfApi."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, str]] = []
        self.error = error

    def create_repo(self, repo_id: str, exist_ok: bool) -> None:
        if self.error:
            raise self.error
        self.calls.append(("create", repo_id))

    def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> None:
        self.calls.append(("upload", folder_path))


def test_push_uploads_the_folder(tmp_path: Path) -> None:
    hub = FakeHub()
    assert upload(tmp_path, "me/adapter", hub) == "https://huggingface.co/me/adapter"
    assert hub.calls == [("create", "me/adapter"), ("upload", str(tmp_path))]


def test_push_without_a_token_or_a_right_is_one_line(tmp_path: Path) -> None:
    from huggingface_hub.errors import LocalTokenNotFoundError

    with pytest.raises(InputError, match="no token"):
        upload(tmp_path, "me/adapter", FakeHub(LocalTokenNotFoundError()))
    with pytest.raises(InputError, match="refused it \\(403"):
        upload(tmp_path, "me/adapter", FakeHub(RuntimeError("403 Forbidden\nmore")))
    with pytest.raises(InputError, match="OWNER/NAME"):
        upload(tmp_path, "adapter")


def test_a_run_folder_is_enough_to_inspect_and_fuse(
    finished_run: Path, tmp_path: Path, command_line: Callable[..., Ended]
) -> None:
    run_folder = finished_run / "run"
    inspected = command_line("adapters", "inspect", run_folder)
    assert inspected.status == 0
    assert f"next: mlx-loopai chat --adapter {run_folder / 'adapter'}" in inspected.stderr
    fused = command_line("adapters", "fuse", run_folder, "--out", tmp_path / "fused")
    assert fused.status == 0, fused.stderr
    assert f"which {run_folder} was trained on" in fused.stderr
    assert (tmp_path / "fused" / "config.json").is_file()


def test_a_run_is_pushed_with_the_licence_of_its_base(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: list[tuple[str, str]] = []

    def upload(folder: Path, repo_id: str) -> str:
        sent.append(((folder / "README.md").read_text(encoding="utf-8"), repo_id))
        return f"https://huggingface.co/{repo_id}"

    monkeypatch.setattr("mlx_loopai.models.hub.upload", upload)
    run = tmp_path / "run"
    shutil.copytree(finished_run / "run", run)
    assert main(["adapters", "push", str(run), "me/writer"]) == 2
    assert "is not known; look at the base's page and give --licence" in capsys.readouterr().err
    for _ in range(2):
        assert main(["adapters", "push", str(run), "me/writer", "--licence", "Apache-2.0"]) == 0
    assert capsys.readouterr().out.splitlines() == ["https://huggingface.co/me/writer"] * 2
    (card, repository), again = sent
    assert repository == "me/writer"
    assert again[0] == card
    head = card.split("---\n")[1]
    assert head.count("license: apache-2.0\n") == 1
    assert "## Retention" in card


def test_a_fused_model_is_pushed_with_the_figures_of_its_adapter(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_line: Callable[..., Ended]
) -> None:
    sent: list[str] = []

    def upload(folder: Path, repo_id: str) -> str:
        sent.append((folder / "README.md").read_text(encoding="utf-8"))
        return f"https://huggingface.co/{repo_id}"

    monkeypatch.setattr("mlx_loopai.models.hub.upload", upload)
    out = tmp_path / "fused"
    assert command_line("adapters", "fuse", finished_run / "run", "--out", out).status == 0
    refused = command_line("push", out, "me/writer")
    assert refused.status == 2
    assert "give --licence" in refused.stderr
    pushed = command_line("push", out, "me/writer", "--licence", "Apache-2.0", "--json")
    assert json.loads(pushed.stdout)["folder"] == str(out)
    assert "license: apache-2.0\n" in sent[0].split("---\n")[1]
    assert "| loss" in sent[0] or "## Training" in sent[0]
    # The licence that the card names now is enough.
    assert command_line("push", out, "me/writer").status == 0
    assert command_line("push", tmp_path, "me/writer").stderr.count("neither a run, an adapter's folder nor a model's")


def test_a_checkpoint_becomes_an_adapter(
    finished_run: Path, tmp_path: Path, command_line: Callable[..., Ended]
) -> None:
    run, out = finished_run / "run", tmp_path / "last"
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    ended = command_line("adapters", "checkpoint", run, "--step", int(names[-1].split("-")[1]), "--out", out)
    assert ended.status == 0, ended.stderr
    assert ended.stdout == f"{out}: {names[-1]}\n"
    # That of the last checkpoint is the run's own; what was measured of that is not said of it.
    own, made = (mx.load(str(folder / "adapters.safetensors")) for folder in (run / "adapter", out))
    assert own.keys() == made.keys()
    assert all(mx.array_equal(own[name], made[name]) for name in own)
    assert "figures" not in json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))["mlx_loopai"]
    again = command_line("adapters", "checkpoint", run, "--out", out)
    assert "already there" in again.stderr
    unknown = command_line("adapters", "checkpoint", run, "--step", 99999, "--out", tmp_path / "x")
    assert unknown.status == 2
    assert f"no such checkpoint; it has {names[0]}" in unknown.stderr


def test_the_licence_of_known_bases() -> None:
    assert licence_of("nano") == "Apache-2.0"
    assert licence_of("qwen/qwen2.5-1.5b-instruct") == "Apache-2.0"
    assert licence_of("somebody/model") is None
    assert with_licence("words", "MIT") == "---\nlicense: mit\n---\n\nwords"
    assert with_licence("---\nlicense: other\n---\nx", "MIT") == "---\nlicense: other\n---\nx"
