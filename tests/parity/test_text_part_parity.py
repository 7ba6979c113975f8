"""The text model of a multimodal release: read by the converter and by the loader, equal to transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx_loopai  # noqa: F401

# isort: split
import mlx.core as mx
import numpy as np
import pytest

from converters.convert import convert
from converters.writers.target import Target
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.load import load_model
from mlx_loopai.models.loss import Head
from tests.parity.tiny_models import KINDS, SHAPE, TOKENS, TOKENS_OF_TEXT
from tests.tiny_files import write_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

TOWER = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 64, "patch_size": 2}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A tiny multimodal Qwen3.5 as transformers saves it, and its logits for a text."""
    torch.manual_seed(3)
    text = SHAPE | KINDS["Qwen3_5"] | {"tie_word_embeddings": True}
    config = transformers.Qwen3_5Config(text_config=text, vision_config=TOWER, tie_word_embeddings=True)
    model = transformers.Qwen3_5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    folder = write_tokenizer(tmp_path_factory.mktemp("release") / "model", TOKENS_OF_TEXT)
    model.save_pretrained(folder)
    with torch.no_grad():
        return folder, model(torch.tensor(TOKENS)).logits.numpy()


def logits(model: Any) -> np.ndarray:
    head = Head.of(model)
    return np.array(head.project(head.arrays, hidden_states(model, mx.array(TOKENS)), transpose=True))


@pytest.mark.parametrize("how", ["opened", "converted", "by mlx-lm"])
def test_the_text_model_is_the_releases(tmp_path: Path, release: tuple[Path, np.ndarray], how: str) -> None:
    folder, expected = release
    if how == "converted":
        conversion = convert(folder, tmp_path / "out", dtype="fp32", check=True)
        assert any("no part of the text model" in note for note in conversion.notes)
        assert json.loads((tmp_path / "out/config.json").read_text())["model_type"] == "qwen3_5"
        folder = tmp_path / "out"
    elif how == "by mlx-lm":
        mlx_lm_convert(folder, tmp_path / "theirs")
        # Its values lie otherwise: norms one higher, the convolution's axes turned.
        convert(tmp_path / "theirs", tmp_path / "out", dtype="fp32")
        folder = tmp_path / "out"
    assert np.abs(logits(load_model(str(folder), "fp32").model) - expected).max() < 5e-4


def mlx_lm_convert(source: Path, out: Path) -> None:
    from mlx_lm.convert import convert as theirs

    theirs(str(source), mlx_path=str(out), dtype="float32")


def test_it_goes_back_to_transformers_as_a_text_model(tmp_path: Path, release: tuple[Path, np.ndarray]) -> None:
    folder, expected = release
    convert(folder, tmp_path / "hf", target=Target(to="hf", dtype="fp32"))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    assert type(again).__name__ == "Qwen3_5ForCausalLM"
    with torch.no_grad():
        assert np.abs(again(torch.tensor(TOKENS)).logits.numpy() - expected).max() < 1e-5
