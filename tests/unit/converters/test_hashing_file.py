"""Files that are hashed while they are written."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters import hashing_file as module
from converters.hashing_file import hashing_file

BUFFER = module._BUFFER_BYTES


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, BUFFER - 1, BUFFER, BUFFER + 1, 5 * BUFFER + 3])
def test_any_length_arrives_whole(tmp_path: Path, size: int) -> None:
    content = np.random.default_rng(size).bytes(size)
    with hashing_file(tmp_path / "f") as file:
        file.write(content)
        found = file.finish()
    assert (tmp_path / "f").read_bytes() == content
    assert found == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": size}


@settings(max_examples=30, deadline=None)
@given(pieces=st.lists(st.binary(max_size=9000), max_size=12))
def test_pieces_are_joined(pieces: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BUFFER_BYTES", 8192)
        path = Path(folder) / "f"
        with hashing_file(path) as file:
            for piece in pieces:
                file.write(piece)
            found = file.finish()
        assert path.read_bytes() == b"".join(pieces)
        assert found["sha256"] == hashlib.sha256(b"".join(pieces)).hexdigest()


def test_a_file_system_without_direct_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(module.fcntl, "fcntl", refuse)
    with hashing_file(tmp_path / "f") as file:
        file.write(b"x" * 5000)
        file.finish()
    assert (tmp_path / "f").read_bytes() == b"x" * 5000


def test_a_full_disk_is_told_to_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"), hashing_file(tmp_path / "f") as file:
        for _ in range(10):
            file.write(b"x" * BUFFER)
