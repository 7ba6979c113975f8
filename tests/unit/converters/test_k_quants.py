"""K-quants: written by llama.cpp, verified by us against their definition, and opened again."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.convert import convert
from converters.readers import open_checkpoint
from converters.rounding import k_quant_bound
from converters.writers.k_quants import K_QUANTS
from converters.writers.target import Target
from mlx_loopai.errors import InputError, LoopaiError

Build = Callable[..., Path]
WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512}


@pytest.mark.parametrize("word", K_QUANTS)
def test_a_k_quant_is_written_and_verified(model_folder: Build, tmp_path: Path, word: str) -> None:
    pytest.importorskip("llama_cpp")
    source = model_folder(**WIDE)
    found = convert(source, tmp_path / "m.gguf", target=Target(to="gguf", quantize=word), check=True)
    assert found.verification is not None
    assert found.dtype == word
    assert [path.name for path in tmp_path.glob("*.gguf*")] == ["m.gguf"]
    before, after = open_checkpoint(source), open_checkpoint(tmp_path / "m.gguf")
    for entry in before.entries:
        if entry.is_matrix:
            stored = next(each for each in after.entries if each.name == entry.name)
            off = np.square(stored.load() - entry.load()).mean() / np.square(entry.load()).mean()
            assert 0 < off < 4.0 ** (2 - K_QUANTS[word].bits)


def test_damage_passes_the_bound() -> None:
    rows = np.random.default_rng(0).normal(size=(3, 512)).astype(np.float32)
    bound = k_quant_bound(rows, 4)
    assert bound.shape == rows.shape
    assert (np.abs(rows) > bound).mean() > 0.5  # a matrix of zeros would be found


def test_without_llama_cpp_the_extra_is_named(
    model_folder: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *arguments: Any) -> Any:
        if name == "llama_cpp":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match=r"q4_k_m: needs llama.cpp; install mlx-loopai\[gguf\]"):
        convert(model_folder(**WIDE), tmp_path / "m.gguf", target=Target(to="gguf", quantize="q4_k_m"))


def test_a_failure_leaves_no_file(model_folder: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    monkeypatch.setattr(llama_cpp, "llama_model_quantize", lambda *arguments: 1)
    with pytest.raises(LoopaiError, match=r"llama.cpp could not quantise it to q6_k"):
        convert(model_folder(**WIDE), tmp_path / "out" / "m.gguf", target=Target(to="gguf", quantize="q6_k"))
    assert not list(tmp_path.glob("out/*"))
