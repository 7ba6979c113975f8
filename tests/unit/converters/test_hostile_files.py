"""Files made to cost time or memory, or to bring in what lies elsewhere: refused for what they are, and at once.

Each of these once hung a conversion, took gigabytes, or was copied into the output. None has a time limit here: a test
of this file that does not end is the failure.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from converters.convert import Source, convert
from converters.peft import read_peft
from converters.readers import open_checkpoint
from converters.tokenizer_check import read_tokenizer_file
from mlx_loopai.errors import InputError
from mlx_loopai.models.load import Base, load_tokenizer
from tests.unit.converters.torch_archives import ORDERED, number, text, write_bin

Build = Callable[..., Path]

# t = (t, t), sixty times: small, and its text would have 2^60 characters.
DOUBLED = b")" + b"2\x86" * 60


def as_bin(folder: Path, pickle: bytes, tensors: dict[str, np.ndarray] | None = None) -> Path:
    (folder / "model.safetensors").unlink()
    write_bin(folder / "pytorch_model.bin", tensors or {"a": np.zeros(1, np.float32)}, pickle)
    return folder


@pytest.mark.parametrize(
    "pickle",
    [
        b"\x80\x04" + DOUBLED + text("x") + b"\x93.",
        b"\x80\x04" + text("x") + DOUBLED + b"\x93.",
        b"\x80\x02(" + text("storage") + DOUBLED + text("0") + text("cpu") + number(1) + b"tQ.",
        b"\x80\x02}" + DOUBLED + b"Ns.",
        b"\x80\x02}" + text("a") + DOUBLED + b"s.",
        b"\x80\x02ccollections\nOrderedDict\n" + DOUBLED + b"R.",
        b"\x80\x02}" + number(3) + DOUBLED + b"s.",
    ],
)
def test_a_small_pickle_of_a_value_without_end(model_folder: Build, pickle: bytes) -> None:
    with pytest.raises(InputError, match=r"pickle|is no tensor|not a tensor"):
        open_checkpoint(as_bin(model_folder(), pickle))


@pytest.mark.parametrize("step", [b"\x94", b"q\x00", b"N", b"]"])
def test_a_pickle_of_many_steps_and_few_tensors(model_folder: Build, step: bytes) -> None:
    with pytest.raises(InputError, match=r"more steps than its tensors need|bytes, more than its 3 members need"):
        open_checkpoint(as_bin(model_folder(), b"\x80\x04" + ORDERED + step * (60_000 // len(step)) + b"."))


def test_a_number_too_long_to_write_out(model_folder: Build) -> None:
    huge = b"\x8b" + (8000).to_bytes(4, "little") + b"\x7f" * 8000
    with pytest.raises(InputError, match="a number"):
        open_checkpoint(as_bin(model_folder(), b"\x80\x02}" + huge + b"Ns."))


def header(path: Path, content: bytes) -> None:
    path.write_bytes(len(content).to_bytes(8, "little") + content)


def test_a_header_of_brackets_and_one_of_countless_tensors(model_folder: Build) -> None:
    folder = model_folder()
    header(folder / "model.safetensors", b'{"a":[' + b"[]," * 8_000_000 + b"[]]}")
    with pytest.raises(InputError, match="hardly more than brackets"):
        open_checkpoint(folder)
    one = b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
    header(folder / "model.safetensors", b"{" + b"".join(one % n for n in range(300_001))[:-1] + b"}")
    with pytest.raises(InputError, match="lists more than 300000 tensors"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_json_of_brackets(model_folder: Build, tmp_path: Path, name: str) -> None:
    folder = model_folder()
    (folder / name).write_bytes(b'{"model_type":"qwen2","a":[' + b"{}," * 1_000_000 + b"{}]}")
    with pytest.raises(InputError, match="hardly more than brackets"):
        convert(folder, tmp_path / "out")


@pytest.mark.parametrize(
    "name",
    ["merges.txt", "vocab.txt", "chat_template.jinja", "tokenizer.json", "config.json", "model.safetensors", "added_tokens.json"],
)  # fmt: skip
def test_a_link_out_of_the_folder_is_not_followed(model_folder: Build, tmp_path: Path, name: str) -> None:
    """Its content would lie in the output."""
    folder = model_folder()
    secret = tmp_path / "secret"
    secret.write_bytes((folder / name).read_bytes() if (folder / name).exists() else b"secret")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    for attempt in (lambda: convert(folder, tmp_path / "out"), lambda: Base.open(str(folder))):
        with pytest.raises(InputError, match=rf"{name}: is a link to .*secret, out of"):
            attempt()
    assert not (tmp_path / "out").exists()
    if name not in ("config.json", "model.safetensors"):
        with pytest.raises(InputError, match="is a link to"):
            convert(Source(model_folder("other"), tokenizer=folder), tmp_path / "out")


def test_a_link_within_the_folder_and_to_the_hubs_blobs_is_followed(model_folder: Build, tmp_path: Path) -> None:
    folder = model_folder("models--a--b/snapshots/0123")
    blobs = tmp_path / "models--a--b/blobs"
    blobs.mkdir()
    for at, file in enumerate(sorted(folder.iterdir())):
        file.rename(blobs / str(at))
        file.symlink_to(f"../../blobs/{at}")
    assert len(open_checkpoint(folder).entries) == 27
    plain = model_folder("plain")
    (plain / "model.safetensors").rename(plain / "weights")
    (plain / "model.safetensors").symlink_to("weights")
    assert len(open_checkpoint(plain).entries) == 27


def test_an_adapters_link_out_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="is a link to"):
        read_peft(folder)


def replaced(times: int, content: str = "aaaaaaaaaa", pattern: Any = None) -> dict[str, Any]:
    step = {"type": "Replace", "pattern": pattern or {"String": "a"}, "content": content}
    return {"type": "Sequence", "normalizers": [step] * times}


@pytest.mark.parametrize(
    "normalizer",
    [replaced(7), replaced(2, "x" * 40), replaced(1, "x" * 5000, {"Regex": ""}), replaced(300, "b")],
)
def test_a_tokenizer_that_lengthens_a_text_without_end(model_folder: Build, normalizer: dict[str, Any]) -> None:
    path = model_folder() / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": normalizer}))
    with pytest.raises(InputError, match="times as long; do not trust"):
        read_tokenizer_file(path)


def test_the_usual_replacements_pass(model_folder: Build) -> None:
    path = model_folder() / "tokenizer.json"
    usual = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}  # fmt: skip
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": usual}))
    assert read_tokenizer_file(path)["normalizer"] == usual


def mutants(document: dict[str, Any], count: int) -> list[str]:
    """The document as JSON text with a value taken out, emptied or swapped for another kind."""
    generator = random.Random(3)
    found = []
    for _ in range(count):
        copy = json.loads(json.dumps(document))
        place, key = copy, generator.choice(list(copy))
        while isinstance(place[key], dict | list) and place[key] and generator.random() < 0.8:
            place = place[key]
            key = generator.choice(list(place)) if isinstance(place, dict) else generator.randrange(len(place))
        if generator.random() < 0.3 and isinstance(place, dict):
            del place[key]
        else:
            place[key] = generator.choice([None, "", 0, -1, [], {}, "x", 1 << 40, True])
        found.append(json.dumps(copy))
    return found


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_that_is_accepted_opens(tiny_model_folder: Path, tmp_path: Path, name: str) -> None:
    """Of 253 damaged ones 166 once passed that nothing could open."""
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "source"))
    document = json.loads((folder / name).read_text(encoding="utf-8"))
    refused = 0
    for number_, mutant in enumerate(mutants(document, 40)):
        (folder / name).write_text(mutant, encoding="utf-8")
        try:
            convert(folder, tmp_path / str(number_))
        except InputError:
            refused += 1
            continue
        load_tokenizer(tmp_path / str(number_)).encode("안녕하세요 abc")
    assert 3 <= refused < 40


def test_a_folder_of_good_files_still_converts(model_folder: Build, tmp_path: Path) -> None:
    folder = model_folder()
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    write_bin(folder / "pytorch_model.bin", tensors)
    assert convert(folder, tmp_path / "out", check=True).tensors == len(tensors)
