"""The text model of a multimodal release: read by the converter and by the loader, equal to transformers."""

from __future__ import annotations

import json
import shutil
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
SIGLIP = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
MODEL_TYPES = {"Qwen3_5": "qwen3_5", "Gemma3": "gemma3_text"}


@pytest.fixture(scope="module", params=MODEL_TYPES)
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, np.ndarray]:
    """(the text model's kind, a tiny multimodal release as transformers saves it, its logits for a text)."""
    kind = request.param
    torch.manual_seed(3)
    text = SHAPE | KINDS[kind] | {"tie_word_embeddings": True}
    tower = TOWER if kind == "Qwen3_5" else SIGLIP
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=tower, tie_word_embeddings=True)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    folder = write_tokenizer(tmp_path_factory.mktemp("release") / "model", TOKENS_OF_TEXT)
    model.save_pretrained(folder)
    with torch.no_grad():
        return kind, folder, model(torch.tensor(TOKENS)).logits.numpy()


def logits(model: Any) -> np.ndarray:
    head = Head.of(model)
    return np.array(head.project(head.arrays, hidden_states(model, mx.array(TOKENS)), transpose=True))


@pytest.mark.parametrize("how", ["opened", "converted", "by mlx-lm"])
def test_the_text_model_is_the_releases(tmp_path: Path, release: tuple[str, Path, np.ndarray], how: str) -> None:
    kind, folder, expected = release
    if how == "converted":
        conversion = convert(folder, tmp_path / "out", dtype="fp32", check=True)
        assert any("no part of the text model" in note for note in conversion.notes)
        assert json.loads((tmp_path / "out/config.json").read_text())["model_type"] == MODEL_TYPES[kind]
        folder = tmp_path / "out"
    elif how == "by mlx-lm":
        mlx_lm_convert(folder, tmp_path / "theirs")
        # Its values lie otherwise: norms one higher, the convolution's axes turned.
        convert(tmp_path / "theirs", tmp_path / "out", dtype="fp32")
        folder = tmp_path / "out"
    assert np.abs(logits(load_model(str(folder), "fp32").model) - expected).max() < 5e-4


def mlx_lm_convert(source: Path, out: Path) -> None:
    from mlx_lm.convert import convert as theirs

    copied = shutil.copytree(source, out.with_name("copied"))
    config = json.loads((copied / "config.json").read_text())
    # Its gemma3 takes 262,208 for granted where the configuration has no vocabulary beside the text model's.
    (copied / "config.json").write_text(json.dumps(config | {"vocab_size": SHAPE["vocab_size"]}))
    theirs(str(copied), mlx_path=str(out), dtype="float32")


def test_it_goes_back_to_transformers_as_a_text_model(tmp_path: Path, release: tuple[str, Path, np.ndarray]) -> None:
    kind, folder, expected = release
    convert(folder, tmp_path / "hf", target=Target(to="hf", dtype="fp32"))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    assert type(again).__name__ == f"{kind}ForCausalLM"
    with torch.no_grad():
        assert np.abs(again(torch.tensor(TOKENS)).logits.numpy() - expected).max() < 1e-5
