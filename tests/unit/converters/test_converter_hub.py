from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from converters.readers import open_checkpoint
from mlx_loopai.errors import InputError
from mlx_loopai.models.hub import is_hub_id


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


def test_a_downloaded_snapshot_is_read_as_a_folder(
    monkeypatch: pytest.MonkeyPatch, model_folder: Callable[..., Path]
) -> None:
    folder = model_folder()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo_id, **options: str(folder))
    assert open_checkpoint("someone/model").source == folder


def test_a_path_that_does_not_exist_is_not_asked_of_the_hub(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder or file"):
        open_checkpoint(str(tmp_path / "none"))
