"""Adapters as GGUF files: llama.cpp computes with them what we compute with ours."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from converters.adapter_beside_gguf import write_beside_gguf
from converters.convert import convert
from converters.writers.gguf_adapter import write_gguf_adapter
from converters.writers.target import Target
from mlx_loopai.config import LoraOptions
from mlx_loopai.errors import InputError
from mlx_loopai.models.adapter_folder import read_adapter
from mlx_loopai.models.adapters import save_adapter
from mlx_loopai.models.decoder import architecture_in
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import apply_lora
from tests.tiny_architectures import CONFIGS, write_architecture
from tests.unit.converters.test_gguf_architectures import QWEN35

IDS = [5, 7, 11, 13, 40, 2, 60, 7]


def trained(folder: Path, out: Path) -> np.ndarray:
    """An adapter of `folder`'s model at `out`; returns: the adapted logits of IDS (T, V)."""
    loaded = load_model(str(folder), "fp32")
    options = LoraOptions(rank=3, alpha=5.0)
    blocks = architecture_in(loaded.model).mlx_blocks
    uneven = {f"{blocks}.1.self_attn.q_proj": 1, f"{blocks}.1.mlp.down_proj": 5}
    for layer in apply_lora(loaded.model, options, 1, uneven).values():
        layer.lora_b = 0.3 * mx.random.normal(layer.lora_b.shape)
    save_adapter(out, loaded.model, options, loaded.base_hash)
    return np.array(loaded.model(mx.array([IDS])))[0]


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "llama", "exaone4", "qwen3_5"])
def test_llama_cpp_computes_the_same_with_it(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    if name == "qwen3_5":
        monkeypatch.setitem(CONFIGS, name, CONFIGS[name] | QWEN35)
    folder = write_architecture(tmp_path / "base", name, tiny_model_folder)
    adapted = trained(folder, tmp_path / "adapter")
    convert(folder, tmp_path / "base.gguf", target=Target(to="gguf", dtype="fp32"))
    adapter = read_adapter(tmp_path / "adapter")
    write_gguf_adapter(tmp_path / "adapter.gguf", adapter, CONFIGS[name], "here")

    def logits(**options: str) -> np.ndarray:
        model = llama_cpp.Llama(
            str(tmp_path / "base.gguf"), n_ctx=len(IDS), n_batch=len(IDS), logits_all=True, verbose=False, **options
        )
        model.eval(IDS)
        found = np.array(model.scores[: len(IDS)], np.float32)
        model.close()
        return found

    largest = np.abs(adapted).max()
    assert np.abs(logits(lora_path=str(tmp_path / "adapter.gguf")) - adapted).max() < 1e-2 * largest
    assert np.abs(logits() - adapted).max() > 0.1 * largest


def test_a_base_that_it_does_not_fit_is_refused(tmp_path: Path, tiny_model_folder: Path) -> None:
    folder = write_architecture(tmp_path / "base", "qwen2", tiny_model_folder)
    trained(folder, tmp_path / "adapter")
    adapter = read_adapter(tmp_path / "adapter")
    config = json.loads((folder / "config.json").read_text()) | {"intermediate_size": 64}
    with pytest.raises(InputError, match=r"does not fit this base: .*mlp.*\(64, 32\)"):
        write_gguf_adapter(tmp_path / "a.gguf", adapter, config, "here")
    with pytest.raises(InputError, match=r"of different widths is not written to GGUF"):
        write_gguf_adapter(tmp_path / "a.gguf", adapter, CONFIGS["qwen3_5"], "here")
    assert not (tmp_path / "a.gguf").exists()


def test_beside_a_gguf_base_lies_a_modelfile_of_both(tmp_path: Path, tiny_model_folder: Path) -> None:
    folder = write_architecture(tmp_path / "model", "qwen2", tiny_model_folder)
    trained(folder, tmp_path / "adapter")
    base = tmp_path / "models" / "base.gguf"
    base.parent.mkdir()
    convert(folder, base, target=Target(to="gguf", quantize="q8_0"))
    adapter = read_adapter(tmp_path / "adapter")
    place = write_beside_gguf(tmp_path / "a.gguf", adapter, base)
    lines = place.read_text(encoding="utf-8").split("\n")
    assert place == tmp_path / "a.Modelfile"
    assert lines[:2] == ["FROM ./models/base.gguf", "ADAPTER ./a.gguf"]
    assert any(line.startswith("PARAMETER stop ") for line in lines)
    write_gguf_adapter(tmp_path / "same.gguf", adapter, CONFIGS["qwen2"], "here")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "same.gguf").read_bytes()
    with pytest.raises(InputError, match=r"a\.Modelfile"):
        write_beside_gguf(tmp_path / "a.gguf", adapter, base)
