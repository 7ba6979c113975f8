from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from converters.readers.safetensors_file import read_entries
from converters.tensors import is_finite
from mlx_loopai.errors import InputError

GOOD = save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)})


def with_header(header: Any, data: bytes = bytes(24)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes


def test_tensors_come_back_in_the_order_of_their_data(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    tensors = {"x": np.arange(12, dtype=np.float32).reshape(3, 4), "y": np.ones((2, 2, 2), np.float16)}
    save_file(tensors, path)
    found = {entry.name: entry.load() for entry in read_entries(path)}
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    assert np.array_equal(next(e for e in read_entries(path) if e.name == "x").read_rows(1, 2), tensors["x"][1:2])


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 40, len(GOOD) - 1])
def test_truncated_files(tmp_path: Path, length: int) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(GOOD[:length])
    with pytest.raises(InputError, match=r"m.safetensors"):
        read_entries(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((1 << 60).to_bytes(8, "little") + bytes(100), "its header has 1152921504606846976 bytes"),
        (with_header(b"[" * 100_000), "not valid JSON"),
        (with_header(b"\xff\xfe"), "not valid JSON"),
        (with_header([1]), "JSON list"),
        (with_header(b'{"a": 1, "a": 2}'), "'a' occurs twice"),
        (with_header({"a": 1}), "lacks dtype"),
        (with_header({"a": tensor(shape=[2, -3])}), "has the shape"),
        (with_header({"a": tensor(shape=[True, 6])}), "has the shape"),
        (with_header({"a": tensor(shape=[1 << 62, 1 << 62])}), "24 bytes, which is not its shape"),
        (with_header({"a": tensor(shape=[2, 4])}), "24 bytes, which is not its shape"),
        (with_header({"a": tensor(data_offsets=[0, 1 << 60])}), "the data end at 24"),
        (with_header({"a": tensor(data_offsets=[24, 0])}), "lies at 24..0"),
        (with_header({"a": tensor(data_offsets=[0])}), "data_offsets"),
        (with_header({"a": tensor(), "b": tensor()}), "a gap or an overlap"),
        (with_header({"a": tensor()}, bytes(32)), "8 bytes that belong to no tensor"),
        (with_header({"a": tensor(dtype="I64", shape=[3])}), "type 'I64'; F32, F16 and BF16"),
        (with_header({"a": tensor(dtype={"x": 1})}), "has the dtype"),
    ],
)
def test_headers_that_lie(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_entries(path)


def test_skipped_names_may_have_any_type(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(with_header({"a": tensor(dtype="I64", shape=[3])}))
    assert read_entries(path, skip=lambda name: name == "a") == []


def test_a_file_that_shrinks_after_its_header_was_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(GOOD)
    entries = read_entries(path)
    path.write_bytes(GOOD[:-4])
    with pytest.raises(InputError, match=r"ends .* bytes too early"):
        for entry in entries:
            entry.load()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6), st.data())
def test_mutated_files_give_tensors_or_an_input_error(
    tmp_path: Path, changes: list[tuple[int, int]], data: st.DataObject
) -> None:
    content = bytearray(GOOD)
    for position, value in changes:
        content[position] = value
    path = tmp_path / "m.safetensors"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        for entry in read_entries(path):
            is_finite(entry.load(), entry.dtype)
    except InputError as error:
        assert "\n" not in str(error)


def test_a_missing_file_and_a_folder(tmp_path: Path, model_folder: Callable[..., Path]) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(InputError, match=r"no such file"):
            read_entries(path)
