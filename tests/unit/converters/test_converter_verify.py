from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters import verify as verify_module
from converters.convert import convert
from converters.readers import open_checkpoint
from converters.streamed_model import logits
from converters.tensors import TensorEntry
from converters.verify import compare_weights, verify
from mlx_loopai.errors import LoopaiError

Build = Callable[..., Path]


def ignore(count: int) -> None:
    pass


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_a_good_output(model_folder: Build, tmp_path: Path, dtype: str) -> None:
    calls: list[tuple[str, int, int]] = []
    done = convert(
        model_folder(), tmp_path / "out", dtype=dtype, check=True, on_progress=lambda *call: calls.append(call)
    )
    found = done.verification
    assert found is not None
    if dtype == "fp32":
        assert (found.max_abs, found.max_rel, found.logits_max_abs) == (0, 0, 0)
    else:
        bound = {"bf16": 2**-8, "fp16": 2**-11}[dtype]
        assert 0 < found.max_rel <= bound
        assert 0 < found.max_abs < 1.5 * bound
        assert 0 < found.logits_max_abs < 1
    assert found.groups["self_attn.q_proj"].max_abs <= found.max_abs
    assert found.groups.keys() >= {"embed_tokens", "norm", "lm_head", "mlp.down_proj", "input_layernorm"}
    assert {call[0] for call in calls} == {"write", "verify"}
    assert calls[-1][1] == calls[-1][2]


def flip(folder: Path, name: str) -> None:
    """Change the lowest exponent bit of the tensor's first weight."""
    path = folder / "model.safetensors"
    entry = next(e for e in open_checkpoint(folder).entries if e.name == name)
    content = bytearray(path.read_bytes())
    position = content.index(entry.load().tobytes())
    content[position + entry.n_bytes() // entry.n_elements - 1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_one_wrong_weight_is_found_and_named(model_folder: Build, tmp_path: Path, dtype: str) -> None:
    source, out = model_folder(), tmp_path / "out"
    convert(source, out, dtype=dtype)
    verify(open_checkpoint(source), out, ignore)
    flip(out, "model.layers.1.self_attn.q_proj.bias")
    with pytest.raises(LoopaiError, match=r"layers.1.self_attn.q_proj.bias: differs from .* more than rounding"):
        compare_weights(open_checkpoint(source), open_checkpoint(out), ignore)


def test_a_missing_tensor_is_found(model_folder: Build, tmp_path: Path) -> None:
    source = model_folder()
    convert(model_folder("tied", tie_word_embeddings=True), tmp_path / "out")
    with pytest.raises(LoopaiError, match=r"holds other tensors"):
        compare_weights(open_checkpoint(source), open_checkpoint(tmp_path / "out"), ignore)


def test_an_output_that_fails_never_gets_its_name(
    model_folder: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = verify_module.open_checkpoint

    def damaged(folder: Path) -> object:
        flip(folder, "model.norm.weight")
        return real(folder)

    monkeypatch.setattr(verify_module, "open_checkpoint", damaged)
    with pytest.raises(LoopaiError, match=r"the output was not kept"):
        convert(model_folder(), tmp_path / "out", check=True)
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_logits_that_are_not_finite_are_an_error(model_folder: Build, tmp_path: Path) -> None:
    source = model_folder()
    tensors = {entry.name: entry.load() for entry in open_checkpoint(source).entries}
    tensors["lm_head.weight"] = np.full_like(tensors["lm_head.weight"], 3e38)
    from safetensors.numpy import save_file

    save_file(tensors, source / "model.safetensors")
    with pytest.raises(LoopaiError, match=r"not finite"):
        convert(source, tmp_path / "out", check=True)


def test_streamed_logits_are_those_of_the_whole_model(
    model_folder: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_loopai.models.load import load_model

    tokens = np.arange(20, dtype=np.int32)[None]
    for tied in (False, True):
        folder = model_folder(f"source-{tied}", tie_word_embeddings=tied)
        wanted = np.array(load_model(str(folder), dtype="fp32").model(tokens_array(tokens)))
        monkeypatch.setattr(TensorEntry.spans, "__defaults__", (300,))
        assert np.abs(logits(open_checkpoint(folder), tokens) - wanted).max() < 1e-5


def tokens_array(tokens: np.ndarray) -> Any:
    import mlx.core as mx

    return mx.array(tokens)
