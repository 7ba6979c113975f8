"""torch's format before version 1.6: read as it lies, in any order of axes, and never run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.readers.torch_legacy import is_legacy, read_legacy_file
from mlx_loopai.errors import InputError
from tests.unit.converters.torch_archives import MAGIC, write_bin, write_legacy

RNG = np.random.default_rng(4)
TENSORS = {
    "kernel": RNG.normal(size=(3, 5, 2, 2)).astype(np.float32),
    # As a program leaves it that turned the axes of another library's kernel.
    "turned": np.asfortranarray(RNG.normal(size=(4, 3)).astype(np.float32)),
    "half": RNG.normal(size=7).astype(np.float16),
    "counter": np.array(3, np.int64),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_legacy(tmp_path / "a.pth", TENSORS)


def test_tensors_are_read_as_they_lie(file: Path) -> None:
    assert is_legacy(file)
    found = read_legacy_file(file)
    assert found.keys() == TENSORS.keys() - {"counter"}
    for name, values in found.items():
        assert values.dtype == TENSORS[name].dtype
        assert np.array_equal(values, TENSORS[name])


def test_a_zip_is_another_format(tmp_path: Path) -> None:
    assert not is_legacy(write_bin(tmp_path / "a.bin", {"kernel": TENSORS["kernel"]}))


@pytest.mark.parametrize("cut", [20, 60, 300, 5])
def test_a_cut_file_is_refused(file: Path, cut: int) -> None:
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(InputError, match=r"a\.pth: "):
        read_legacy_file(file)


def test_a_big_endian_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="big-endian"):
        read_legacy_file(write_legacy(tmp_path / "a.pth", TENSORS, little=False))


def test_nothing_in_it_is_run(tmp_path: Path) -> None:
    called = b"cos\nsystem\n(X\x04\x00\x00\x00truetR."
    (tmp_path / "a.pth").write_bytes(MAGIC + b"\x80\x02M\xe9\x03." + b"\x80\x02" + called)
    with pytest.raises(InputError, match=r"calls os\.system.*nothing was run"):
        read_legacy_file(tmp_path / "a.pth")


@pytest.mark.filterwarnings("ignore:invalid escape")  # pickletools decodes a string that the noise made
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
def test_a_damaged_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, place: int, noise: bytes) -> None:
    file = write_legacy(tmp_path_factory.mktemp("damaged") / "a.pth", TENSORS)
    content = bytearray(file.read_bytes())
    place %= len(content)
    content[place : place + len(noise)] = noise
    file.write_bytes(content)
    try:
        read_legacy_file(file)
    except InputError as error:
        assert "a.pth" in str(error)
