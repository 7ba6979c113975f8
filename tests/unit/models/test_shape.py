from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.models.architectures import ARCHITECTURES
from mlx_loopai.models.shape import ModelShape, Quantization

NANO = Path(__file__).parents[3] / "mlx_loopai" / "assets" / "nano"
TINY = {
    "model_type": "qwen2",
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
}


def config(vocab: int, hidden: int, layers: int, heads: int, kv_heads: int, inner: int, tied: bool) -> dict:
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    sizes = dict(zip(names, (vocab, hidden, layers, heads, kv_heads), strict=True))
    return {"model_type": "qwen2", **sizes, "intermediate_size": inner, "tie_word_embeddings": tied}


# (config.json's sizes, weights, LoRA of rank 16 on all linears), Qwen2.5 0.5B, 1.5B, 3B, 7B
PUBLISHED = [
    (config(151936, 896, 24, 14, 2, 4864, True), 494_032_768, 8_798_208),
    (config(151936, 1536, 28, 12, 2, 8960, True), 1_543_714_304, 18_464_768),
    (config(151936, 2048, 36, 16, 2, 11008, True), 3_085_938_688, 29_933_568),
    (config(152064, 3584, 28, 28, 4, 18944, False), 7_615_616_512, 40_370_176),
]


@pytest.mark.parametrize(("values", "weights", "adapter"), PUBLISHED, ids=["0.5B", "1.5B", "3B", "7B"])
def test_qwen25_parameters_are_exact(values: dict, weights: int, adapter: int) -> None:
    shape = ModelShape.from_config(values)
    assert shape.parameters == weights
    assert shape.lora_parameters(16) == adapter


VARIANTS = {
    "qwen2": {},
    "qwen2, separate head": {"tie_word_embeddings": False},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "llama": {"model_type": "llama"},
    "llama with biases": {
        "model_type": "llama", "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False
    },
    "mistral": {"model_type": "mistral", "head_dim": 16},
    "qwen3_5": {
        "model_type": "qwen3_5", "num_hidden_layers": 4, "head_dim": 16, "linear_num_value_heads": 4,
        "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 12,
    },
    "gpt_neox": {
        "model_type": "gpt_neox", "num_key_value_heads": None, "intermediate_size": 128, "tie_word_embeddings": False,
        "layer_norm_eps": 1e-5, "rotary_emb_base": 10000, "rotary_pct": 0.25, "use_parallel_residual": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_counts_equal_those_of_mlx_lm(name: str) -> None:
    import mlx.nn as nn
    from mlx.utils import tree_flatten
    from mlx_lm.utils import _get_classes

    values = {**TINY, "rope_theta": 1e4, "max_position_embeddings": 64, **VARIANTS[name]}
    model_class, arguments = _get_classes(values)
    model = model_class(arguments.from_dict(values))
    shape = ModelShape.from_config(values)
    assert shape.parameters == sum(array.size for _, array in tree_flatten(model.parameters()))
    for block, layer in zip(shape.blocks, model.layers, strict=True):
        linears = {
            name: tuple(module.weight.shape) for name, module in layer.named_modules() if type(module) is nn.Linear
        }
        assert {name: (linear.out, linear.into) for name, linear in block.linears.items()} == linears
        # The short convolution's axes lie in another order in mlx-lm.
        others = {name: math.prod(size) for name, size in block.tensors().items()}
        assert others == {name: array.size for name, array in tree_flatten(layer.parameters())}


@pytest.mark.skipif(not (NANO / "model.safetensors").exists(), reason="the nano checkpoint is not built yet")
def test_nano_parameters_are_exact() -> None:
    with (NANO / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    stored = 0
    for name, tensor in header.items():
        size = 1
        for n in tensor.get("shape", [0]) if name != "__metadata__" else [0]:
            size *= n
        stored += size
    assert ModelShape.from_folder(NANO).parameters == stored


def test_adapters_on_some_layers_and_targets() -> None:
    shape = ModelShape.from_config(TINY)
    assert shape.lora_parameters(4, ("q_proj",), 1) == 4 * (32 + 32)
    assert shape.lora_parameters(4, ("k_proj", "down_proj")) == 2 * 4 * (16 + 32 + 32 + 48)
    assert shape.lora_parameters(4, (), 99) == shape.lora_parameters(4)
    with pytest.raises(InputError, match="qwen2 has no w1; known: q_proj"):
        shape.lora_parameters(4, ("w1",))


def test_quantization_is_read() -> None:
    shape = ModelShape.from_config({**TINY, "quantization": {"bits": 4, "group_size": 64}})
    assert shape.quantization == Quantization(4, 64)
    assert shape.quantization.bits_per_weight == 4.5
    assert Quantization(4, 32, "mxfp4").bits_per_weight == 4.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "'bert' is not supported; supported are exaone4"),
        ({"model_type": None}, "None is not supported"),
        ({"hidden_size": None, "vocab_size": -1}, "vocab_size is -1.*hidden_size is None"),
        ({"num_hidden_layers": 1.5}, "num_hidden_layers is 1.5"),
        ({"num_attention_heads": 5}, "does not divide"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3"),
        ({"quantization": {"bits": 4}}, "bits and group_size"),
        ({"quantization": {"bits": 99, "group_size": 64}}, "99 bits"),
    ],
)
def test_a_wrong_configuration_says_what_is_wrong(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ModelShape.from_config({**TINY, **change})


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json in this folder"):
        ModelShape.from_folder(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        ModelShape.from_folder(tmp_path / "nowhere")
    file = tmp_path / "config.json"
    for text, message in (("{", "not valid JSON"), ("[1]", "holds a list"), ("{}", "architecture None")):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            ModelShape.from_folder(tmp_path)
    file.write_text(json.dumps(TINY))
    assert ModelShape.from_folder(tmp_path) == ModelShape.from_config(TINY)


def test_every_supported_name_is_planned_for() -> None:
    sizes = {**TINY, "head_dim": 8}
    assert all(ModelShape.from_config({**sizes, "model_type": name}).parameters > 0 for name in ARCHITECTURES)
