from __future__ import annotations

from typing import Any

import pytest

from converters.names import HEAD, architecture_of, check_tensors, expected_tensors, gguf_name, hf_name
from mlx_loopai.errors import InputError

QWEN3 = {"model_type": "qwen3", "head_dim": 16}


@pytest.mark.parametrize("changes", [{}, QWEN3], ids=["qwen2", "qwen3"])
def test_every_tensor_has_one_gguf_name_and_back(config: dict[str, Any], changes: dict[str, Any]) -> None:
    names = list(expected_tensors(config | changes))
    architecture = architecture_of(changes.get("model_type", "qwen2"), "here")
    theirs = [gguf_name(name, architecture) for name in names]
    assert None not in theirs
    assert len(set(theirs)) == len(names)
    assert [hf_name(name, architecture) for name in theirs if name] == names


def test_names_that_have_no_counterpart() -> None:
    qwen2 = architecture_of("qwen2", "here")
    assert hf_name("blk.0.ssm_a.weight", qwen2) is None
    assert hf_name("blk.x.attn_q.weight", qwen2) is None
    assert gguf_name("model.layers.0.self_attn.rotary_emb.inv_freq", qwen2) is None


def test_known_pairs() -> None:
    qwen2 = architecture_of("qwen2", "here")
    assert hf_name("blk.11.attn_q.bias", qwen2) == "model.layers.11.self_attn.q_proj.bias"
    assert hf_name("output.weight", qwen2) == HEAD
    assert gguf_name("model.layers.3.post_attention_layernorm.weight", qwen2) == "blk.3.ffn_norm.weight"


def test_qwen2_has_biases_and_qwen3_has_norms(config: dict[str, Any]) -> None:
    two, three = expected_tensors(config), expected_tensors(config | QWEN3)
    assert two["model.layers.0.self_attn.k_proj.bias"] == (16,)
    assert "model.layers.0.self_attn.q_norm.weight" not in two
    assert three["model.layers.1.self_attn.q_norm.weight"] == (16,)
    assert three["model.layers.1.self_attn.q_proj.weight"] == (64, 32)
    assert "model.layers.0.self_attn.k_proj.bias" not in three
    assert HEAD not in expected_tensors(config | {"tie_word_embeddings": True})


def test_all_disagreements_are_told_at_once(config: dict[str, Any]) -> None:
    found = expected_tensors(config)
    del found["model.norm.weight"]
    found["model.extra.weight"] = (3,)
    found["model.layers.0.mlp.up_proj.weight"] = (1, 2)
    with pytest.raises(InputError) as caught:
        check_tensors(found, config, "here")
    for part in ("here:", "model.norm.weight is missing", "'model.extra.weight' is not a part", "[1, 2]", "[64, 32]"):
        assert part in str(caught.value)


def test_a_lying_depth_costs_nothing(config: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"says 1000000000 layers"):
        check_tensors(expected_tensors(config), config | {"num_hidden_layers": 10**9}, "here")


@pytest.mark.parametrize("kind", ["bert", None, 7, ["qwen2"]])
def test_unsupported_architectures_name_the_supported(kind: object) -> None:
    with pytest.raises(
        InputError, match=r"not supported; supported are exaone4, gemma3_text, gpt_neox, llama, mistral, qwen2"
    ):
        architecture_of(kind, "here")
