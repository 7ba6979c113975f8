from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlx_loopai.files import whole_file, whole_folder, write_whole


def test_a_file_is_replaced_by_all_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")
    write_whole(path, "가\n")
    assert path.read_bytes() == "가\n".encode()
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "after")
    monkeypatch.undo()
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_writer_that_stops_midway_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "a.safetensors") as temporary:
        assert temporary.suffix == ".safetensors"
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_folder_stands_until_all_of_the_new_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run" / "adapter"
    with whole_folder(folder) as temporary:
        (temporary / "a").write_text("before")
    with whole_folder(folder) as temporary:
        (temporary / "b").write_text("after")
        assert (folder / "a").read_text() == "before"
    assert [path.name for path in folder.iterdir()] == ["b"]
    with pytest.raises(KeyboardInterrupt), whole_folder(folder) as temporary:
        (temporary / "c").write_text("never")
        raise KeyboardInterrupt
    assert [path.name for path in folder.iterdir()] == ["b"]
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]
