"""llama.cpp computes a steered head from our GGUF: the logits of the damped tokens, and of no others, are smaller.

It needs `pip install mlx-loopai[gguf]` (llama-cpp-python, MIT); the model is the embedded one, whose head is tied.
"""

from __future__ import annotations

from pathlib import Path

import mlx_loopai  # noqa: F401

# isort: split
import numpy as np
import pytest

from converters.convert import convert
from converters.writers.target import Target
from mlx_loopai.models.load import NANO_FOLDER, load_tokenizer
from mlx_loopai.models.token_bytes import bytes_of_tokens
from mlx_loopai.models.token_scripts import row_factors

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra: gguf)")

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


def _logits(path: Path, ids: list[int]) -> np.ndarray:
    model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
    model.eval(ids)
    return np.array(model.scores[: len(ids)])


def test_llama_cpp_runs_the_steered_head(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(NANO_FOLDER)
    ids = tokenizer.encode("옛날 어느 마을에", add_special_tokens=False)
    convert(NANO_FOLDER, tmp_path / "plain.gguf", target=Target("gguf", dtype="fp32"))
    convert(NANO_FOLDER, tmp_path / "steered.gguf", target=Target("gguf", dtype="fp32", steer="latin=0.5"))
    plain, steered = _logits(tmp_path / "plain.gguf", ids), _logits(tmp_path / "steered.gguf", ids)
    added = set(tokenizer.added_tokens_decoder)
    words = {index: token for token, index in tokenizer.get_vocab().items() if index not in added}
    factors = row_factors(bytes_of_tokens(words, "nano"), {"latin": 0.5}, plain.shape[1])
    assert 0.01 < (factors != 1).mean() < 0.9
    np.testing.assert_allclose(steered, plain * factors, atol=2e-3 * np.abs(plain).max())
