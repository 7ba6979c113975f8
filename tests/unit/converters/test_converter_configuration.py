from __future__ import annotations

import math
from typing import Any

import pytest

from converters.configuration import from_hugging_face
from converters.gguf_configuration import from_gguf
from mlx_loopai.errors import InputError


def without(config: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in names}


def test_the_rope_settings_of_transformers_5_are_moved_to_where_mlx_lm_looks(config: dict[str, Any]) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    raw = without(config, "rope_theta") | {"rope_parameters": {"rope_theta": 1234.0, **scaling}}
    config = from_hugging_face(raw, True, "here")
    assert config["rope_theta"] == 1234.0
    assert config["rope_scaling"] == scaling


def test_the_default_rope_type_makes_no_scaling(config: dict[str, Any]) -> None:
    raw = without(config, "rope_theta") | {"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}}
    assert "rope_scaling" not in from_hugging_face(raw, True, "here")


def test_values_that_loaders_guess_are_written_out(config: dict[str, Any]) -> None:
    config = from_hugging_face(
        without(config, "rope_theta", "num_key_value_heads", "max_position_embeddings"), True, "here"
    )
    assert (config["rope_theta"], config["num_key_value_heads"], config["max_position_embeddings"]) == (1e4, 4, 32768)


@pytest.mark.parametrize("has_head", [True, False])
def test_a_missing_tie_follows_the_tensors(config: dict[str, Any], has_head: bool) -> None:
    assert (
        from_hugging_face(without(config, "tie_word_embeddings"), has_head, "x")["tie_word_embeddings"] is not has_head
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "'gpt2' is not supported"),
        ({"quantization": {"bits": 4}}, "already quantised"),
        ({"quantization_config": {"quant_method": "awq"}}, "already quantised"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"hidden_size": "32"}, "hidden_size is '32'"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"vocab_size": 1 << 60}, "vocab_size is 1152921504606846976"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"rope_theta": -1}, "rope_theta is -1"),
        ({"rope_theta": None, "rope_parameters": [1]}, "rope_parameters is"),
        ({"num_key_value_heads": 3}, "do not divide"),
        ({"head_dim": 16}, "head_dim 16 is not 8"),
    ],
)
def test_absurd_configurations_are_input_errors(config: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_hugging_face(config | change, True, "here")


SHAPES = {"model.embed_tokens.weight": (32, 32), "lm_head.weight": (32, 32)}


def metadata(**changes: Any) -> dict[str, Any]:
    base = {
        "general.architecture": "qwen2",
        "qwen2.block_count": 2,
        "qwen2.context_length": 128,
        "qwen2.embedding_length": 32,
        "qwen2.feed_forward_length": 64,
        "qwen2.attention.head_count": 4,
        "qwen2.attention.head_count_kv": 2,
        "qwen2.attention.layer_norm_rms_epsilon": 9.999999974752427e-07,
        "qwen2.rope.freq_base": 1000000.0,
        "tokenizer.ggml.eos_token_id": 28,
    }
    return base | {key.replace("__", "."): value for key, value in changes.items()}


def test_gguf_metadata_gives_the_numbers_that_people_wrote() -> None:
    config = from_gguf(metadata(), SHAPES, None, "here")
    assert config["rms_norm_eps"] == 1e-6
    assert config["rope_theta"] == 1e6
    assert (config["vocab_size"], config["tie_word_embeddings"], config["eos_token_id"]) == (32, False, 28)
    assert config["architectures"] == ["Qwen2ForCausalLM"]


def test_gguf_rope_scaling() -> None:
    keys = {"qwen2__rope__scaling__type": "yarn", "qwen2__rope__scaling__factor": 4.0}
    config = from_gguf(metadata(**keys, qwen2__rope__scaling__original_context_length=64), SHAPES, None, "here")
    assert config["rope_scaling"]["factor"] == 4.0
    assert config["rope_scaling"]["original_max_position_embeddings"] == 64
    with pytest.raises(InputError, match=r"rope scaling 'longrope'"):
        from_gguf(metadata(qwen2__rope__scaling__type="longrope"), SHAPES, None, "here")


def test_gguf_yarn_as_llama_cpp_computes_it() -> None:
    keys = {"qwen2__rope__scaling__type": "yarn", "qwen2__rope__scaling__factor": 4.0}
    config = from_gguf(metadata(**keys, qwen2__rope__scaling__attn_factor=0.5), SHAPES, None, "here")
    assert config["rope_scaling"]["attention_factor"] == pytest.approx(0.5 * (0.1 * math.log(4) + 1))
    assert config["rope_scaling"]["original_max_position_embeddings"] == 128
    with pytest.raises(InputError, match=r"yarn_beta_fast is 8.0, which llama.cpp does not read"):
        from_gguf(metadata(**keys, qwen2__rope__scaling__yarn_beta_fast=8.0), SHAPES, None, "here")


def test_a_gguf_factor_without_a_type_scales_linearly() -> None:
    config = from_gguf(metadata(qwen2__rope__scaling__factor=2.0), SHAPES, None, "here")
    assert config["rope_scaling"]["rope_type"] == "linear"
    assert "rope_scaling" not in from_gguf(metadata(qwen2__rope__scaling__factor=1.0), SHAPES, None, "here")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qwen2__rope__dimension_count": 4}, "rope.dimension_count is 4 where a head has 8"),
        ({"qwen2__attention__scale": 0.5}, "attention.scale 0.5"),
        ({"qwen2__rope__scaling__attn_factor": 2.0}, "attn_factor is 2.0"),
    ],
)
def test_gguf_keys_that_mlx_lm_has_no_place_for_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_gguf(metadata(**changes), SHAPES, None, "here")


def test_gguf_metadata_that_is_missing_or_per_layer_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"num_attention_heads is None"):
        from_gguf(metadata(qwen2__attention__head_count=None), SHAPES, None, "here")
    with pytest.raises(InputError, match=r"rms_norm_eps is None"):
        from_gguf(metadata(qwen2__attention__layer_norm_rms_epsilon=None), SHAPES, None, "here")
