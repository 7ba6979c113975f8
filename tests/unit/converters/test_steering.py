"""Steering by the head's rows: the same in MLX, Hugging Face and GGUF, for tied heads and others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from converters.convert import Source, convert
from converters.fuse_folder import fuse
from converters.readers import open_checkpoint
from converters.steering import AUTO_FACTORS, Steering
from converters.streamed_model import logits
from converters.tensors import Checkpoint, to_float32
from converters.writers.target import Target
from mlx_loopai.config import LoraOptions
from mlx_loopai.errors import InputError
from mlx_loopai.models.adapters import save_adapter
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.models.token_bytes import byte_alphabet

CODES = byte_alphabet()
TEXTS = ["你", "人们", "は", "가", "나無", "ab", "👍"]
PIECES = [b"\xe5", b"\xe3", b"\xea\xb0"]
FACTORS = {256: 0.5, 257: 0.5, 258: 0.25, 263: 0.5}
N_ROWS = 288


def _spelled(data: bytes) -> str:
    return "".join(CODES[byte] for byte in data)


@pytest.fixture
def bytes_folder(tmp_path: Path) -> Path:
    """A byte-level tokenizer: 256 bytes, some characters, some pieces, one added token."""
    folder = tmp_path / "bytes"
    folder.mkdir()
    tokens = [*CODES, *(_spelled(text.encode()) for text in TEXTS), *map(_spelled, PIECES)]
    tokens = list(dict.fromkeys(tokens))
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken("<|끝中|>", special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer"}))
    return folder


def _head(checkpoint: Checkpoint) -> np.ndarray:
    return _matrix(checkpoint, "lm_head.weight")


def _matrix(checkpoint: Checkpoint, name: str) -> np.ndarray:
    entry = next(entry for entry in checkpoint.entries if entry.name == name)
    return to_float32(entry.load(), entry.dtype)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("to", ["mlx", "hf", "gguf"])
def test_the_head_is_scaled_everywhere_alike(
    tmp_path: Path, model_folder: Callable[..., Path], bytes_folder: Path, to: str, tied: bool
) -> None:
    source = model_folder(vocab_size=N_ROWS, tie_word_embeddings=tied)
    out = tmp_path / ("out.gguf" if to == "gguf" else "out")
    target = Target(to, steer="han=0.5,kana=0.25")
    done = convert(Source(source, tokenizer=bytes_folder), out, target=target, check=True)
    before, after = open_checkpoint(source), open_checkpoint(out)
    assert after.config["tie_word_embeddings"] is False
    expected = np.ones((N_ROWS, 1), np.float32)
    names = {"你": 0.5, "人们": 0.5, "は": 0.25}
    for index, token in enumerate(dict.fromkeys([*CODES, *(_spelled(text.encode()) for text in TEXTS)])):
        expected[index] = next((factor for text, factor in names.items() if token == _spelled(text.encode())), 1.0)
    expected[0xE4:0xEA] = 0.5
    old = _matrix(before, "model.embed_tokens.weight" if tied else "lm_head.weight")
    np.testing.assert_array_equal(_head(after), old * expected)
    np.testing.assert_array_equal(
        _matrix(after, "model.embed_tokens.weight"), _matrix(before, "model.embed_tokens.weight")
    )
    tokens = np.arange(4)[None]
    np.testing.assert_allclose(logits(after, tokens), logits(before, tokens) * expected[:, 0], rtol=1e-4, atol=1e-5)
    assert ("a matrix of its own" in done.notes[-1]) == tied
    assert done.verification
    assert done.verification.max_abs == 0.0


def test_a_quantised_output_is_steered(tmp_path: Path, model_folder: Callable[..., Path], bytes_folder: Path) -> None:
    source = model_folder(vocab_size=N_ROWS, tie_word_embeddings=True)
    target = Target("mlx", quantize="8", group_size=32, steer="han=0")
    convert(Source(source, tokenizer=bytes_folder), tmp_path / "out", target=target, check=True)
    head = _head(open_checkpoint(tmp_path / "out"))
    assert not head[256].any()
    assert head[0].any()


def test_fusing_steers_too(tmp_path: Path, tiny_model_folder: Path) -> None:
    loaded = load_model(str(tiny_model_folder), "fp32")
    options = LoraOptions(rank=2, layers=1)
    apply_lora(loaded.model, options, seed=1)
    save_adapter(tmp_path / "adapter", loaded.model, options, loaded.base_hash)
    done = fuse(tmp_path / "adapter", str(tiny_model_folder), tmp_path / "out", Target(steer="latin=0.5"))
    base, fused = open_checkpoint(tiny_model_folder), open_checkpoint(tmp_path / "out")
    letter = Tokenizer.from_file(str(tiny_model_folder / "tokenizer.json")).token_to_id("a")
    old = _matrix(base, "model.embed_tokens.weight" if base.config["tie_word_embeddings"] else "lm_head.weight")
    np.testing.assert_array_equal(_head(fused)[letter], old[letter] * np.float32(0.5))
    np.testing.assert_array_equal(_head(fused)[0], old[0])
    assert "steered latin=0.5" in done.notes[-1]


def test_what_can_be_asked_for() -> None:
    assert Steering.parse("auto").factors == AUTO_FACTORS
    assert Steering.parse("han=0.5, latin=0.9").factors == {"han": 0.5, "latin": 0.9}
    assert str(Steering.parse("han=0.5,kana=0")) == "han=0.5,kana=0"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hangul=0.5", "'hangul' is not a script; there are han, kana"),
        ("han", "'han' is not SCRIPT=FACTOR"),
        ("han=1", "han 1: a factor is at least 0 and below 1"),
        ("han=-1", "at least 0"),
        ("han=nan", "at least 0"),
        ("", "is not a script"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match="`steer`") as error:
        Steering.parse(text)
    assert said in str(error.value)


def test_a_tokenizer_without_bytes_is_refused(tmp_path: Path, model_folder: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="neither byte-level BPE"):
        convert(model_folder(), tmp_path / "out", target=Target(steer="auto"))
    assert not (tmp_path / "out").exists()


def test_other_options_make_another_conversion(
    tmp_path: Path, model_folder: Callable[..., Path], bytes_folder: Path
) -> None:
    from converters.convert import identity
    from converters.writers.target import make_plan

    checkpoint: Any = open_checkpoint(model_folder(vocab_size=N_ROWS))
    made = [identity(checkpoint, [], make_plan(Target(steer=steer), checkpoint)) for steer in (None, "auto", "han=0.5")]
    assert made[0] != made[1] != made[2]
