"""torch's `.bin` files are read, and nothing in them is run."""

from __future__ import annotations

import json
import os
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from converters.readers import open_checkpoint
from converters.readers.torch_file import read_torch_file
from converters.readers.torch_pickle import read_pickle
from mlx_loopai.errors import InputError
from tests.unit.converters.torch_archives import number, pickled, tensor, text, write_bin

Build = Callable[..., Path]


ATTACK = b"\x80\x02cos\nsystem\n" + b"(" + text("touch EXECUTED") + b"tR."


def as_torch(folder: Path) -> dict[str, np.ndarray]:
    """Replace the folder's safetensors by a .bin of the same tensors."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    write_bin(folder / "pytorch_model.bin", tensors)
    return tensors


def test_a_folder_of_torch_weights(model_folder: Build) -> None:
    folder = model_folder()
    wanted = as_torch(folder)
    entries = {entry.name: entry for entry in open_checkpoint(folder).entries}
    assert entries.keys() == wanted.keys()
    assert all(np.array_equal(entry.load(), wanted[name]) for name, entry in entries.items())
    assert np.array_equal(entries["lm_head.weight"].read_rows(3, 7), wanted["lm_head.weight"][3:7])


def test_shards_with_an_index_and_buffers(model_folder: Build) -> None:
    folder = model_folder()
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"a.bin": names[: len(names) // 2], "b.bin": names[len(names) // 2 :]}
    for file, part in halves.items():
        mask = {"model.layers.0.attn.bias": np.ones(4, bool)}
        write_bin(
            folder / file,
            mask | {name: tensors[name] for name in part} if file == "a.bin" else {n: tensors[n] for n in part},
        )
    weight_map = {name: file for file, part in halves.items() for name in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert {entry.name for entry in open_checkpoint(folder).entries} == set(names)


def test_types_views_and_shared_storages(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint16)
    items = {
        "whole": tensor("0", (4, 6), 24, "BFloat16Storage"),
        "part": tensor("0", (2, 6), 24, "BFloat16Storage", start=6),
        "scalar": tensor("0", (), 24, "BFloat16Storage", start=5),
    }
    path = write_bin(tmp_path / "m.bin", {"whole": values}, pickled(items))
    entries = {entry.name: entry for entry in read_torch_file(path)}
    assert entries["whole"].dtype == "BF16"
    assert np.array_equal(entries["part"].load(), values.reshape(4, 6)[1:3])
    assert entries["scalar"].load() == 5


def test_code_is_named_and_never_run(model_folder: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = model_folder()
    as_torch(folder)
    write_bin(folder / "pytorch_model.bin", {}, ATTACK)
    with pytest.raises(InputError, match=r"calls os.system, .* nothing was run"):
        open_checkpoint(folder)
    assert not os.path.exists("EXECUTED")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"\x80\x02cbuiltins\neval\n(" + text("1") + b"tR.", "calls builtins.eval"),
        (b"\x80\x04" + b"\x8c\x02os\x8c\x06system\x93(" + text("x") + b"tR.", "calls os.system"),
        (b"\x80\x02ctorch.storage\n_load_from_bytes\n(" + text("x") + b"tR.", "calls torch.storage._load_from_bytes"),
        (b"(S'x'\nios\nsystem\n.", "uses STRING"),
        (b"(" + text("x") + b"ios\nsystem\n.", "uses INST"),
        (b"\x80\x02cos\nsystem\n)\x81.", "uses NEWOBJ"),
        (b"\x80\x02\x82\x01.", "uses EXT1"),
        (b"\x80\x02}" + (text("a") + b"N") * 0 + b"(" + (text("a") + b"N") * 2 + b"u.", "'a' occurs twice"),
        (b"\x80\x02}" + b"(" * 3, "damaged|no end"),
        (b"\x80\x02N" + b"\x85" * 100_000 + b"Ns.", "damaged"),
        (b"\x80\x02}N" + b"\x85" * 100_000 + b"Ns.", "not a name"),
        (b"", "damaged|no end"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02" + tensor("0", (4, 6), 23) + b".", "larger than its storage"),
        (b"\x80\x02" + tensor("0", (1 << 61, 1 << 61), 23) + b".", "larger than its storage"),
    ],
)
def test_pickles_that_no_model_needs(program: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_pickle(program, "here", 1 << 20)


def test_a_transposed_tensor_is_refused() -> None:
    program = tensor("0", (4, 6), 24).replace(number(6) + number(1) + b"t", number(1) + number(4) + b"t")
    with pytest.raises(InputError, match=r"not stored row by row"):
        read_pickle(b"\x80\x02" + program + b".", "here", 1 << 20)


def test_the_opcodes_here_are_those_of_a_pickle() -> None:
    names = {opcode.name for opcode, _, _ in pickletools.genops(pickled({"a": tensor("0", (2, 3), 6)}))}
    assert names >= {"GLOBAL", "REDUCE", "BINPERSID", "SETITEMS", "BUILD", "STOP"}


def test_archives_that_lie(tmp_path: Path) -> None:
    values = np.zeros((4, 6), np.float32)
    path = write_bin(tmp_path / "m.bin", {"a": values}, pickled({"a": tensor("0", (4, 7), 28)}))
    with pytest.raises(InputError, match=r"has another size"):
        read_torch_file(path)
    write_bin(path, {"a": values}, pickled({"a": tensor("../../x", (4, 6), 24)}))
    with pytest.raises(InputError, match=r"missing"):
        read_torch_file(path)
    write_bin(path, {"a": values}, pickled({"a": tensor("0", (3, 4), 12, "DoubleStorage")}))
    with pytest.raises(InputError, match=r"is not F32, F16 or BF16"):
        read_torch_file(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
    with pytest.raises(InputError, match=r"is compressed"):
        read_torch_file(path)
    path.write_bytes(b"\x80\x02\x8a\nlF\xf9 old torch")
    with pytest.raises(InputError, match=r"not in torch's zip format"):
        read_torch_file(path)
    path.write_bytes(write_bin(tmp_path / "whole.bin", {"a": values}).read_bytes()[:-30])
    with pytest.raises(InputError, match=r"damaged archive"):
        read_torch_file(path)
