"""What every test can rely on: no network, and Metal tests only where there is a Metal GPU."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

# Before anything imports huggingface_hub: a test that forgets a local path fails at once, not after a time-out.
os.environ["HF_HUB_OFFLINE"] = "1"
# Whatever the developer's own locale is.
os.environ["LANGUAGE"] = "en"
# What one test run keeps must not reach the next, nor the user's own cache.
os.environ["MLX_LOOPAI_CACHE"] = tempfile.mkdtemp(prefix="mlx-loopai-tests-")

import pytest
from hypothesis import HealthCheck, settings

import mlx_loopai  # noqa: F401  (first of all: it loads MKL before any test module imports mlx)

# isort: split
from tests.tiny_files import byte_tokenizer

# A busy machine is slow at drawing examples and at running them, which says nothing about the code.
settings.register_profile("mlx-loopai", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mlx-loopai")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import mlx.core as mx

    if mx.metal.is_available():
        return
    skip = pytest.mark.skip(reason="needs an Apple GPU")
    for item in items:
        if item.get_closest_marker("metal"):
            item.add_marker(skip)


TINY_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TINY_CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "vocab_size": 300,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
}


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 model (hidden 32, 2 layers, 300 tokens: bytes, merges, Qwen's chat tokens), fp32. Read only."""
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map

    from mlx_loopai.models.load import build_model

    folder = tmp_path_factory.mktemp("tiny") / "model"
    folder.mkdir()
    _write_tiny_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(TINY_CONFIG), encoding="utf-8")
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 0]}', encoding="utf-8")
    mx.random.seed(7)
    # Wider than the usual initialisation: clear preferences, so that rounding changes no greedy choice.
    weights = tree_map(lambda array: 4 * array if array.ndim == 2 else array, build_model(TINY_CONFIG).parameters())
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(weights)), {"format": "mlx"})
    return folder


def _write_tiny_tokenizer(folder: Path) -> None:
    lines = ["안녕하세요. 오늘은 날씨가 좋습니다.", "옛날 옛적에 호랑이가 살았습니다.", "user assistant system"] * 4
    byte_tokenizer(lines, TINY_CONFIG["vocab_size"]).save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "chat_template": TINY_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
