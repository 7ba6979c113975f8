"""Damaged files of every format end in a checkpoint or in one line: no other exception, no hang, no heap of memory."""

from __future__ import annotations

import random
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from converters.readers import open_checkpoint
from converters.tensors import is_finite
from converters.tokenizer import choose_tokenizer
from mlx_loopai.errors import InputError
from tests.unit.converters.torch_archives import write_bin

Build = Callable[..., Path]
FILES = {
    "safetensors": "model.safetensors",
    "index": "model.safetensors.index.json",
    "bin": "pytorch_model.bin",
    "gguf": "model.gguf",
    "config": "config.json",
    "tokenizer": "tokenizer.json",
}
LONGEST_S = 60  # a busy machine included; a file takes milliseconds
MOST_MEMORY = 200 << 20
NUMBERS = [0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**60, 2**63 - 1, 2**63, 2**64 - 1]
VALUES = [
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1.5",
    b"1e400",
    b"NaN",
    b"1152921504606846976",
    b'"x"',
    b"[]",
    b"{}",
    b"[[1]]",
]


def mutated(good: bytes, rng: random.Random) -> bytes:
    """`good` with one to four changes, most of them near its beginning, where formats keep their headers."""
    content = bytearray(good)
    for _ in range(rng.randint(1, 4)):
        if not content:
            break
        at = rng.randrange(min(len(content), rng.choice([64, 1024, 8192, len(content)])))
        rng.choice(CHANGES)(content, at, rng)
    return bytes(content)


def set_byte(content: bytearray, at: int, rng: random.Random) -> None:
    content[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256), content[at] ^ (1 << rng.randrange(8))])


def set_number(content: bytearray, at: int, rng: random.Random) -> None:
    width = rng.choice([4, 8])
    content[at : at + width] = (rng.choice(NUMBERS) % (1 << 8 * width)).to_bytes(width, "little")


def cut(content: bytearray, at: int, rng: random.Random) -> None:
    del content[at:]


def remove(content: bytearray, at: int, rng: random.Random) -> None:
    del content[at : at + rng.randint(1, 40)]


def repeat(content: bytearray, at: int, rng: random.Random) -> None:
    content[at:at] = content[at : at + rng.randint(1, 200)]


def set_value(content: bytearray, at: int, rng: random.Random) -> None:
    """Another value where JSON holds one (in other formats: some digits)."""
    found = re.compile(rb"-?\d+(\.\d+)?|true|false|null|\"[^\"]*\"").search(bytes(content[at : at + 2000]))
    if found:
        content[at + found.start() : at + found.end()] = rng.choice(VALUES)


CHANGES = [set_byte, set_byte, set_number, set_number, cut, remove, repeat, set_value, set_value]


@contextmanager
def limited() -> Iterator[None]:
    """A hang ends in an error that no reader catches."""

    def late(*arguments: object) -> None:
        raise KeyboardInterrupt(f"took longer than {LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def read_all(source: Path, scratch: Path) -> None:
    checkpoint = open_checkpoint(source)
    choose_tokenizer(checkpoint, None, scratch)
    for entry in checkpoint.entries:
        for start, stop in entry.spans():
            is_finite(entry.read_rows(start, stop), entry.dtype)


def build(kind: str, model_folder: Build, gguf_file: Build) -> Path:
    """The source whose file of this kind gets damaged."""
    if kind == "gguf":
        return gguf_file(kinds={"token_embd.weight": "Q8_0", "blk.0.ffn_up.weight": "Q4_0"})
    folder = model_folder()
    if kind == "bin":
        write_bin(folder / FILES[kind], load_file(folder / "model.safetensors"))
        (folder / "model.safetensors").unlink()
    if kind == "index":
        names = load_file(folder / "model.safetensors")
        entries = ", ".join(f'"{name}": "model.safetensors"' for name in names)
        (folder / FILES[kind]).write_text(f'{{"metadata": {{"total_size": 1}}, "weight_map": {{{entries}}}}}')
    return folder


def damage(kind: str, source: Path, count: int) -> tuple[int, int]:
    """Read `count` damaged copies. Returns: how many were refused, and by how many bytes memory's peak rose."""
    path = source if source.is_file() else source / FILES[kind]
    good = path.read_bytes()
    scratch = source.parent / "scratch"
    scratch.mkdir()
    read_all(source, scratch)
    before, refused = peak_bytes(), 0
    for seed in range(count):
        path.write_bytes(mutated(good, random.Random(f"{kind} {seed}")))
        try:
            with limited():
                read_all(source, scratch)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error), seed
            assert len(str(error)) < 2000, seed
        except BaseException as error:
            error.add_note(f"{kind} file, seed {seed}")
            raise
    return refused, peak_bytes() - before


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files(kind: str, model_folder: Build, gguf_file: Build) -> None:
    refused, grown = damage(kind, build(kind, model_folder, gguf_file), 150)
    assert refused > 30
    assert grown < MOST_MEMORY


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", FILES)
def test_many_damaged_files(kind: str, model_folder: Build, gguf_file: Build) -> None:
    refused, grown = damage(kind, build(kind, model_folder, gguf_file), 5000)
    assert refused > 1000
    assert grown < MOST_MEMORY
