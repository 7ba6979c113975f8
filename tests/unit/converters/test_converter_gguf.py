from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converters.names import EMBEDDING, HEAD
from converters.readers import open_checkpoint
from converters.readers.gguf_header import read_header
from converters.tensors import to_float32
from mlx_loopai.errors import InputError

Build = Callable[..., Path]

HEAD_BYTES = struct.pack("<4sI", b"GGUF", 3)


def counts(tensors: int, keys: int) -> bytes:
    return struct.pack("<QQ", tensors, keys)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def info(name: str = "t", dims: tuple[int, ...] = (8, 1), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


@pytest.mark.parametrize("version", [2, 3])
def test_plain_tensors_keep_their_bits(
    gguf_file: Build, config: dict[str, Any], make_tensors: Any, version: int
) -> None:
    path = gguf_file()
    content = bytearray(path.read_bytes())
    content[4:8] = struct.pack("<I", version)
    path.write_bytes(content)
    checkpoint = open_checkpoint(path)
    wanted = make_tensors(config)
    assert {entry.name for entry in checkpoint.entries} == wanted.keys()
    assert all(np.array_equal(entry.load(), wanted[entry.name]) for entry in checkpoint.entries)
    assert checkpoint.config.items() >= {key: config[key] for key in config if key != "head_dim"}.items()
    assert checkpoint.generation_config == {"eos_token_id": [28, 26], "pad_token_id": 26}
    assert (checkpoint.vocabulary or ())[28] == "<|im_end|>"
    assert checkpoint.dtype == "F32"


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_tensors_are_dequantised_as_the_gguf_package_does(gguf_file: Build, kind: str) -> None:
    path = gguf_file(kinds={"token_embd.weight": kind, "blk.1.ffn_down.weight": kind})
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    entries = {entry.name: entry for entry in open_checkpoint(path).entries}
    for name, gguf_name in (
        (EMBEDDING, "token_embd.weight"),
        ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
    ):
        wanted = gguf.dequantize(theirs[gguf_name].data, theirs[gguf_name].tensor_type)
        entry = entries[name]
        assert entry.dtype == (kind if kind in ("F16", "BF16") else "F32")
        assert np.array_equal(to_float32(entry.load(), entry.dtype), wanted)
        assert np.array_equal(to_float32(entry.read_rows(3, 5), entry.dtype), wanted[3:5])


def test_a_head_that_equals_the_embedding_is_tied_and_another_is_not(gguf_file: Build) -> None:
    untied = open_checkpoint(gguf_file("untied.gguf"))
    assert not untied.config["tie_word_embeddings"]
    assert HEAD in {entry.name for entry in untied.entries}
    absent = open_checkpoint(gguf_file("absent.gguf", tie_word_embeddings=True))
    assert absent.config["tie_word_embeddings"]
    path = gguf_file("copied.gguf")
    tensors = {tensor.name: tensor for tensor in read_header(path).tensors}
    content = bytearray(path.read_bytes())
    one, other = tensors["token_embd.weight"], tensors["output.weight"]
    content[other.offset : other.offset + other.n_bytes] = content[one.offset : one.offset + one.n_bytes]
    path.write_bytes(content)
    copied = open_checkpoint(path)
    assert copied.config["tie_word_embeddings"]
    assert HEAD not in {entry.name for entry in copied.entries}


def test_a_quantised_file_is_written_as_bf16_by_default(gguf_file: Build) -> None:
    kinds = {f"blk.{layer}.ffn_{part}.weight": "Q8_0" for layer in (0, 1) for part in ("up", "gate", "down")}
    assert open_checkpoint(gguf_file(kinds=kinds | {"token_embd.weight": "Q8_0"})).dtype in ("F32", "BF16")
    everything = dict.fromkeys(("token_embd.weight", "output.weight"), "Q8_0") | kinds
    everything |= {f"blk.{layer}.attn_{part}.weight": "Q8_0" for layer in (0, 1) for part in ("q", "k", "v", "output")}
    assert open_checkpoint(gguf_file("all.gguf", kinds=everything)).dtype == "BF16"


def test_qwen3(gguf_file: Build) -> None:
    checkpoint = open_checkpoint(gguf_file(model_type="qwen3", head_dim=16))
    assert checkpoint.config["head_dim"] == 16
    assert "model.layers.0.self_attn.k_norm.weight" in {entry.name for entry in checkpoint.entries}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 bytes"),
        (b"GGUF", "has 4 bytes"),
        (b"PK\3\4" + bytes(40), "is not a GGUF file"),
        (struct.pack("<4sI", b"GGUF", 1) + counts(0, 0), "version 1"),
        (struct.pack(">4sI", b"GGUF", 3) + counts(0, 0), "big-endian"),
        (HEAD_BYTES + counts(1 << 60, 0), "claims 1152921504606846976 tensors"),
        (HEAD_BYTES + counts(0, 1 << 60), "and 1152921504606846976 keys"),
        (HEAD_BYTES + counts(0, 1) + struct.pack("<Q", 1 << 60), "a name has 1152921504606846976 bytes"),
        (HEAD_BYTES + counts(0, 1) + text("k") + struct.pack("<IQ", 8, 1 << 60), "needs 1152921504606846976 more"),
        (HEAD_BYTES + counts(0, 1) + text("k") + struct.pack("<IIQ", 9, 0, 1 << 60), "needs 1152921504606846976 more"),
        (HEAD_BYTES + counts(0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 1 << 60), "claims 1152921504606846976 str"),
        (HEAD_BYTES + counts(0, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1), "unknown type 9"),
        (HEAD_BYTES + counts(0, 1) + text("k") + struct.pack("<I", 99), "unknown type 99"),
        (HEAD_BYTES + counts(0, 2) + (text("k") + struct.pack("<II", 4, 1)) * 2, "'k' occurs twice"),
        (HEAD_BYTES + counts(0, 1) + struct.pack("<Q", 1) + b"\xff" + bytes(8), "not UTF-8"),
        (HEAD_BYTES + counts(1, 0) + info(dims=(1, 1, 1, 1, 1)) + bytes(64), "5 dimensions"),
        (HEAD_BYTES + counts(1, 0) + info(kind=200) + bytes(64), "unknown type 200"),
        (HEAD_BYTES + counts(1, 0) + info(kind=8) + bytes(64), "rows of 8 values, not a multiple of 32"),
        (HEAD_BYTES + counts(1, 0) + info(dims=(1 << 62, 1 << 62)) + bytes(64), "after the file"),
        (HEAD_BYTES + counts(1, 0) + info(offset=1 << 60) + bytes(64), "after the file"),
        (HEAD_BYTES + counts(1, 0) + info(offset=3) + bytes(64), "wrong offset 3"),
        (HEAD_BYTES + counts(2, 0) + info("a") + info("b") + bytes(99), "wrong offset 0"),
        (HEAD_BYTES + counts(2, 0) + info("a") + info("a", offset=32) + bytes(99), "'a' occurs twice"),
        (
            HEAD_BYTES + counts(0, 1) + text("general.alignment") + struct.pack("<II", 4, 3),
            "general.alignment is 3",
        ),
        (HEAD_BYTES + counts(0, 0), "architecture None is not supported"),
    ],
)
def test_headers_that_lie(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_checkpoint(path)


def test_a_truncated_file(gguf_file: Build) -> None:
    path = gguf_file()
    content = path.read_bytes()
    for length in (30, 200, len(content) // 2, len(content) - 600):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"model.gguf"):
            open_checkpoint(path)


def test_one_part_of_a_split_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-00002.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_uint16("split.count", 2)
    writer.add_tensor("token_embd.weight", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"one part of a split GGUF"):
        open_checkpoint(path)


@pytest.fixture
def mutant(gguf_file: Build, tmp_path: Path) -> tuple[bytes, Path]:
    return gguf_file(kinds={"token_embd.weight": "Q8_0"}).read_bytes(), tmp_path / "mutant.gguf"


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_mutated_files_give_a_checkpoint_or_an_input_error(mutant: tuple[bytes, Path], data: st.DataObject) -> None:
    good, path = mutant
    content = bytearray(good)
    # The header is a few kB of a much larger file: the changes belong there.
    for position in data.draw(st.lists(st.integers(0, 4000), min_size=1, max_size=6)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2, 3000]))])
    try:
        for entry in open_checkpoint(path).entries:
            entry.load()
    except InputError as error:
        assert "\n" not in str(error)
