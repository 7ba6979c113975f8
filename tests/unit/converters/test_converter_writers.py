from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx_loopai  # noqa: F401

# isort: split
import mlx.core as mx
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from converters import hashing_file, output
from converters.convert import convert
from converters.readers import open_checkpoint
from converters.tensors import TensorEntry
from converters.writers import safetensors_file, target
from converters.writers.mlx import write_mlx
from converters.writers.stored import dense
from mlx_loopai.errors import InputError, LoopaiError

Build = Callable[..., Path]


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("source", "tokenizer"))


def test_the_output_is_a_complete_mlx_folder(
    model_folder: Build, tmp_path: Path, config: dict[str, Any], make_tensors: Any
) -> None:
    out = tmp_path / "deep" / "out"
    done = convert(model_folder(), out)
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    found, wanted = load_file(out / "model.safetensors"), make_tensors(config)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    with safe_open(out / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "mlx"}
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == wanted.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in wanted.values())
    written = json.loads((out / "config.json").read_text())
    assert written["torch_dtype"] == "float32"
    assert (done.tensors, done.dtype, done.verification) == (len(wanted), "fp32", None)
    assert done.n_bytes == sum(path.stat().st_size for path in out.iterdir())
    assert out.stat().st_mode & 0o777 == (out.parent.stat().st_mode & 0o777)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_mlx_reads_every_type_as_it_was_rounded(model_folder: Build, tmp_path: Path, dtype: str) -> None:
    source = model_folder()
    convert(source, tmp_path / "out", dtype=dtype)
    code = {"fp32": mx.float32, "bf16": mx.bfloat16, "fp16": mx.float16}[dtype]
    written = mx.load(str(tmp_path / "out" / "model.safetensors"))
    for name, tensor in load_file(source / "model.safetensors").items():
        assert written[name].dtype == code
        assert mx.array_equal(written[name], mx.array(tensor).astype(code))


def test_bf16_to_bf16_keeps_every_byte(model_folder: Build, tmp_path: Path) -> None:
    convert(model_folder(), tmp_path / "one", dtype="bf16")
    done = convert(tmp_path / "one", tmp_path / "two")
    assert done.dtype == "bf16"
    for name in ("model.safetensors", "config.json", "tokenizer.json", "generation_config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_shards(model_folder: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = model_folder()
    monkeypatch.setattr(safetensors_file.plan_shards, "__defaults__", (20_000,))
    convert(source, tmp_path / "out")
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    again, wanted = open_checkpoint(tmp_path / "out"), load_file(source / "model.safetensors")
    assert all(np.array_equal(entry.load(), wanted[entry.name]) for entry in again.entries)
    assert all((tmp_path / "out" / name).stat().st_size < 20_000 + 4_000 for name in files)


def test_a_tensor_above_the_limit_gets_its_own_shard() -> None:
    def entry(name: str, size: int) -> TensorEntry:
        return TensorEntry(name, (size,), "F32", lambda start, stop: np.zeros((1, size)), name)

    entries = [entry("a", 10), entry("b", 100), entry("c", 5), entry("d", 5)]
    shards = safetensors_file.plan_shards([dense(entry, "F32") for entry in entries], limit=60)
    assert [[tensor.arrays[0].name for tensor in shard] for shard in shards] == [["a"], ["b"], ["c", "d"]]
    narrow = [dense(entry, "F16") for entry in entries]
    assert [len(shard) for shard in safetensors_file.plan_shards(narrow, limit=10**9)] == [4]


def test_a_block_at_a_time_gives_the_same_file(
    model_folder: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = model_folder()
    convert(source, tmp_path / "one", dtype="fp16")
    monkeypatch.setattr(TensorEntry.spans, "__defaults__", (200,))
    seen: list[tuple[str, int, int]] = []
    convert(source, tmp_path / "two", dtype="fp16", on_progress=lambda *call: seen.append(call))
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()
    assert len(seen) > 100
    assert seen[-1][1] == seen[-1][2]


def test_an_output_is_never_overwritten(model_folder: Build, tmp_path: Path) -> None:
    source, out = model_folder(), tmp_path / "out"
    out.mkdir()
    convert(source, out)
    before = (out / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(InputError, match=r"out: already holds files and is never overwritten"):
        convert(source, out)
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(InputError, match=r"is a file"):
        convert(source, file)
    assert file.read_text() == "x"


def test_an_output_that_somebody_fills_meanwhile_survives(
    model_folder: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def fill(*arguments: Any) -> Any:
        out.mkdir()
        (out / "theirs").write_text("x")
        return write_mlx(*arguments)

    monkeypatch.setattr(target, "write_mlx", fill)
    with pytest.raises(InputError, match=r"never overwritten"):
        convert(model_folder(), out)
    assert left_behind(out) == ["theirs"]
    assert left_behind(tmp_path) == ["out"]


@pytest.mark.parametrize("at", [1, 5, 12])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing(
    model_folder: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, code: int
) -> None:
    calls = 0
    real = os.write

    def write(handle: int, data: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(code, os.strerror(code))
        return real(handle, data)

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(hashing_file, "_BUFFER_BYTES", mmap.PAGESIZE)
    with pytest.raises(LoopaiError, match=r"out: the disk is full .* choose another `out`") as caught:
        convert(model_folder(), tmp_path / "out")
    assert caught.value.exit_status == 1
    assert "\n" not in str(caught.value)
    assert left_behind(tmp_path) == []


def test_a_disk_that_fills_leaves_no_gguf(model_folder: Build, tmp_path: Path) -> None:
    def fill(stage: str, done: int, total: int) -> None:
        if done > total / 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(LoopaiError, match=r"out.gguf: the disk is full .* choose another `out`") as caught:
        convert(model_folder(), tmp_path / "out.gguf", target=target.Target(to="gguf"), on_progress=fill)
    assert caught.value.exit_status == 1
    assert left_behind(tmp_path) == []


def test_a_disk_that_is_too_small_is_told_at_once(
    model_folder: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(output.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(LoopaiError, match=r"needs .* but 10 B are free") as caught:
        convert(model_folder(), tmp_path / "deep" / "out")
    assert caught.value.exit_status == 1
    assert left_behind(tmp_path) == []


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it but what `finally` blocks do."""


def stop_at(share: float, error: type[BaseException]) -> Any:
    def stop(stage: str, done: int, total: int) -> None:
        if done > total * share:
            raise error

    return stop


def test_an_error_leaves_nothing(model_folder: Build, tmp_path: Path) -> None:
    with pytest.raises(MemoryError):
        convert(model_folder(), tmp_path / "out", on_progress=stop_at(0.5, MemoryError))
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, Killed])
def test_a_killed_conversion_is_continued(
    model_folder: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    source = model_folder()
    monkeypatch.setattr(safetensors_file.plan_shards, "__defaults__", (20_000,))
    convert(source, tmp_path / "whole")
    with pytest.raises(error):
        convert(source, tmp_path / "out", on_progress=stop_at(0.6, error))
    assert not (tmp_path / "out").exists()
    partial = tmp_path / ".out.partial"
    listed = json.loads((partial / "manifest.json").read_text())["files"]
    assert len(listed) > 1
    assert "config.json" not in listed
    damaged, *kept = sorted(listed)
    before = {name: (partial / name).stat().st_mtime_ns for name in listed}
    with (partial / damaged).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    convert(source, tmp_path / "out")
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == before[name] for name in kept)
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert not partial.exists()


def test_another_conversion_starts_over(model_folder: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = model_folder()
    monkeypatch.setattr(safetensors_file.plan_shards, "__defaults__", (20_000,))
    with pytest.raises(Killed):
        convert(source, tmp_path / "out", on_progress=stop_at(0.6, Killed))
    convert(source, tmp_path / "out", dtype="bf16")
    convert(source, tmp_path / "direct", dtype="bf16")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "direct").iterdir()
    }


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    second = output.output_folder(tmp_path / "out", {})
    with output.output_folder(tmp_path / "out", {}), pytest.raises(InputError, match=r"another process is writing it"):
        second.__enter__()
    assert (tmp_path / "out").is_dir()


def test_the_manifest_lists_every_file(model_folder: Build, tmp_path: Path) -> None:
    convert(model_folder(), tmp_path / "out")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest.keys() == {"files"}
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.name != "manifest.json"}
    assert manifest["files"] == {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} for name, content in files.items()
    }


def test_writes_that_stop_early_are_continued(
    model_folder: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = model_folder()
    convert(source, tmp_path / "one")
    real = os.write
    # Whole pages, as a system stops that writes past its cache.
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, memoryview(data)[: mmap.PAGESIZE]))
    convert(source, tmp_path / "two")
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()


def test_a_damaged_tensor_leaves_nothing_and_is_named(model_folder: Build, tmp_path: Path) -> None:
    source = model_folder()
    path = source / "model.safetensors"
    entry = next(e for e in open_checkpoint(source).entries if e.name == "model.norm.weight")
    content = bytearray(path.read_bytes())
    position = content.index(entry.load().tobytes())
    content[position : position + 4] = np.float32("nan").tobytes()
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model.norm.weight: holds NaN"):
        convert(source, tmp_path / "out")
    assert left_behind(tmp_path) == []
