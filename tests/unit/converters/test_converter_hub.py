from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors
from safetensors.numpy import load_file

from converters.readers import open_checkpoint
from mlx_loopai.errors import InputError
from mlx_loopai.models.hub import is_hub_id
from tests.unit.converters.torch_archives import write_bin


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        ("Qwen/Qwen2.5-1.5B-Instruct", True),
        ("./models/qwen", False),
        ("models/qwen/deep", False),
        ("/models/qwen", False),
        ("../qwen", False),
        ("a/..", False),
        ("qwen", False),
        (Path("a/b"), False),
    ],
)
def test_what_a_hub_id_looks_like(source: str | Path, answer: bool) -> None:
    assert is_hub_id(source) is answer


def refuse(monkeypatch: pytest.MonkeyPatch, error: Exception) -> str:
    def snapshot_download(repo_id: str, **options: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(InputError) as caught:
        open_checkpoint("someone/model")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        errors.LocalEntryNotFoundError("cannot find\nthe files"),
        errors.OfflineModeIsEnabled("offline"),
        ConnectionError("refused"),
        OSError(),
    ],
)
def test_no_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    message = refuse(monkeypatch, error)
    assert "someone/model" in message
    assert "give a folder" in message
    assert "HF_HUB_OFFLINE=1" in message


def test_a_model_that_the_hub_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    # The hub client has changed its HTTP library before; its errors look at these two fields only.
    response: Any = SimpleNamespace(headers={}, request=None)
    assert "neither a local path nor a model" in refuse(
        monkeypatch, errors.RepositoryNotFoundError("404", response=response)
    )
    assert "licence" in refuse(monkeypatch, errors.GatedRepoError("403", response=response))
    assert "no revision" in refuse(monkeypatch, errors.RevisionNotFoundError("404", response=response))


def test_a_downloaded_snapshot_is_read_as_a_folder(
    monkeypatch: pytest.MonkeyPatch, model_folder: Callable[..., Path]
) -> None:
    folder = model_folder()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo_id, **options: str(folder))
    assert open_checkpoint("someone/model").source == folder


class FakeHub:
    """Gives the files of `folder` that match the patterns, and remembers what it was asked for."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        self.asked: list[tuple[str, object]] = []

    def snapshot_download(self, repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        self.asked.append((repo_id, revision))
        self.cache.mkdir(exist_ok=True)
        for path in self.folder.iterdir():
            if any(path.match(pattern) for pattern in allow_patterns):
                shutil.copy(path, self.cache)
        return str(self.cache)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, model_folder: Callable[..., Path], tmp_path: Path) -> FakeHub:
    fake = FakeHub(model_folder(), tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake


def test_a_revision_is_passed_on(hub: FakeHub) -> None:
    (hub.folder / "modeling.py").write_text("")
    (hub.folder / "pytorch_model.bin").write_bytes(b"the same weights again")
    assert open_checkpoint("someone/model", "v1.0").source == hub.cache
    assert hub.asked == [("someone/model", "v1.0")]
    assert not {"modeling.py", "pytorch_model.bin"} & {path.name for path in hub.cache.iterdir()}


def test_torch_files_are_fetched_where_there_are_no_others(hub: FakeHub) -> None:
    tensors = load_file(hub.folder / "model.safetensors")
    (hub.folder / "model.safetensors").unlink()
    write_bin(hub.folder / "pytorch_model.bin", tensors)
    assert {entry.name for entry in open_checkpoint("someone/model").entries} == tensors.keys()
    assert hub.asked == [("someone/model", None)] * 2


def test_a_revision_of_a_local_folder_is_refused(model_folder: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"is a local path; leave `revision` out"):
        open_checkpoint(model_folder(), "v1.0")


def test_a_cached_copy_serves_without_network(
    monkeypatch: pytest.MonkeyPatch, model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """The real client, offline, on a cache in the hub's layout."""
    commit = "0123456789" * 4
    repo = tmp_path / "hub" / "models--someone--model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    shutil.copytree(model_folder(), repo / "snapshots" / commit)
    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda *names, **options: real(*names, cache_dir=tmp_path / "hub", **options),
    )
    for revision in (None, "main", commit):
        assert open_checkpoint("someone/model", revision).source == repo / "snapshots" / commit
    with pytest.raises(InputError, match=r"cannot be reached"):
        open_checkpoint("someone/model", "f" * 40)


def test_a_path_that_does_not_exist_is_not_asked_of_the_hub(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder or file"):
        open_checkpoint(str(tmp_path / "none"))
