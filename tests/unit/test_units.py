from __future__ import annotations

import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.units import GIB, format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("9GiB", 9 * GIB),
        ("9GB", 9 * 10**9),
        ("9g", 9 * GIB),
        ("1.5 GiB", 3 * GIB // 2),
        ("512m", 512 << 20),
        ("800MiB", 800 << 20),
        ("64kb", 64_000),
        ("1024", 1024),
        ("7 B", 7),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "0", "0.1", "9 GiBs", "9,5GiB", "many", "1e9"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"memory\.budget: cannot read .*write it like 9GiB"):
        parse_bytes(text, "memory.budget")


def test_what_is_shown_can_be_read() -> None:
    assert parse_bytes(format_bytes(3 * GIB)) == 3 * GIB
