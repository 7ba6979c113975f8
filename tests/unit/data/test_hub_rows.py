"""Data sets on the hub: one split is fetched, once, and the cache serves without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from mlx_loopai.config import SourceOptions
from mlx_loopai.data.sources import read_source, reading_of
from mlx_loopai.errors import InputError

ROW = json.dumps({"prompt": "가", "completion": "나"}, ensure_ascii=False) + "\n"
BRANCH = "refs/convert/parquet"


class Hub:
    """The hub and its cache: `files` by (repository, revision), `fetched` what was downloaded."""

    def __init__(self, cache: Path, files: dict[tuple[str, str | None], dict[str, str]]) -> None:
        self.cache, self.files = cache, files
        self.fetched: list[str] = []
        self.online = True

    def list_repo_files(self, repo_id: str, *, repo_type: str, revision: str | None = None) -> list[str]:
        if not self.online:
            raise ConnectionError("no network")
        if (repo_id, revision) not in self.files:
            response = type("Response", (), {"headers": {}, "request": None, "status_code": 404})()
            kind = "RevisionNotFoundError" if revision else "RepositoryNotFoundError"
            raise getattr(huggingface_hub.errors, kind)("not found", response=response)
        return list(self.files[repo_id, revision])

    def snapshot_download(
        self, repo_id: str, *, revision: str | None = None, allow_patterns: Any = None, local_files_only: bool = False,
        **_: Any,
    ) -> str:  # fmt: skip
        folder = self.cache / repo_id.replace("/", "--") / (revision or "main").replace("/", "-")
        if local_files_only:
            if not folder.exists():
                raise FileNotFoundError(folder)
            return str(folder)
        if not self.online:
            raise ConnectionError("no network")
        for name in allow_patterns:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.files[repo_id, revision][name], encoding="utf-8")
            self.fetched.append(name)
        return str(folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    plain = {"README.md": "", "train.jsonl": ROW * 3, "validation.jsonl": ROW, "code.py": "raise"}
    parts = {"ko/train-00000-of-00001.jsonl": ROW, "en/train-00000-of-00001.jsonl": ROW * 5}
    found = Hub(
        tmp_path / "cache",
        {
            ("a/plain", None): plain,
            ("a/parts", None): parts,
            ("a/script", None): {"script.py": ""},
            ("a/script", BRANCH): {"default/train/0000.jsonl": ROW * 2},
            ("a/none", None): {"x.txt": ""},
        },
    )
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: found)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found.snapshot_download)
    return found


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        ("hf:a/plain", 3),
        ("hf:a/plain:train", 3),
        ("hf:a/plain:validation", 1),
        ("hf:a/plain:dev", 1),
        ("hf:a/parts/ko", 1),
        ("hf:a/parts/en:train", 5),
        ("hf:a/script", 2),
    ],
)
def test_the_rows_of_a_split(hub: Hub, source: str, rows: int) -> None:
    assert len(read_source(source, "domain")) == rows
    assert all(name.endswith(".jsonl") for name in hub.fetched)
    fetched = len(hub.fetched)
    # Offline after the first time.
    hub.online = False
    assert len(read_source(source, "domain")) == rows
    assert len(hub.fetched) == fetched


def test_only_the_split_is_fetched(hub: Hub) -> None:
    read_source("hf:a/plain", "domain")
    assert hub.fetched == ["train.jsonl"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf:a/plain:test", "has no split 'test'; it has train, validation"),
        ("hf:a/none", "holds no rows"),
        ("hf:a/missing", "no such data set on the hub"),
        ("hf:../etc", "is not of the form"),
        ("hf:a/plain:train:x", "is not of the form"),
    ],
)
def test_what_the_hub_does_not_give(hub: Hub, source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_source(source, "domain")


def test_without_a_network_and_a_cache(hub: Hub) -> None:
    hub.online = False
    with pytest.raises(InputError, match="cannot be reached and nothing of it is cached"):
        read_source("hf:a/plain", "domain")


def test_a_sources_options_reach_its_rows(hub: Hub) -> None:
    how = SourceOptions(path="hf:a/plain", columns={"prompt": "completion", "completion": "prompt"}, allow_special=True)
    record = reading_of("hf:a/plain", "domain", how).records[0]
    assert [message.content for message in record.messages] == ["나", "가"]
    assert record.allow_special
