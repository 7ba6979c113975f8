"""Keys of config.json that a hostile reader would try, on every architecture: the same as transformers, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx_loopai  # noqa: F401

# isort: split
import mlx.core as mx
import mlx_lm.utils
import numpy as np
import pytest
from safetensors.numpy import save_file

from converters.convert import convert
from mlx_loopai.errors import InputError
from tests.parity.tiny_models import KINDS, OFFSET_NORMS, SHAPE
from tests.tiny_files import write_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

TYPES = {
    "Qwen2": "qwen2",
    "Qwen3": "qwen3",
    "Llama": "llama",
    "Mistral": "mistral",
    "GPTNeoX": "gpt_neox",
    "Qwen3_5": "qwen3_5_text",
    "Qwen3_5Moe": "qwen3_5_moe_text",
    "Qwen3Moe": "qwen3_moe",
    "Exaone4": "exaone4",
    "Exaone4-windows": "exaone4",
    "Gemma3": "gemma3_text",
}
TOKENS = np.random.default_rng(1).integers(0, SHAPE["vocab_size"], (1, 60))
# A share of the largest logit: float32 arithmetic in another order, and linear attention's division by its length.
CLOSE = 1e-3
MISSING = object()
LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CHANGES: list[tuple[str, list[Any]]] = [
    ("rope_theta", [500.0]),
    ("rope_scaling", [LINEAR, LINEAR | {"rope_theta": 99.0}, {"type": "linear", "factor": 4.0}, {"factor": 4.0}]),
    ("rope_scaling", [LLAMA3, {"rope_type": "dynamic", "factor": 2.0}, {"rope_type": "yarn", "factor": 4.0}]),
    ("rope_parameters", [MISSING, {"rope_type": "default", "rope_theta": 55.0}, LINEAR | {"rope_theta": 55.0}]),
    ("rope_parameters", [{"rope_type": "default", "rope_theta": 55.0, "partial_rotary_factor": 0.5}]),
    ("rope_parameters", [{kind: LINEAR | {"rope_theta": 9.0} for kind in ("full_attention", "sliding_attention")}]),
    ("rope_parameters", [{"full_attention": {"rope_type": "default", "rope_theta": 9.0}}]),
    ("rope_parameters", [{"sliding_attention": {"rope_type": "default", "rope_theta": 9.0}}]),
    ("partial_rotary_factor", [0.5]),
    ("rope_local_base_freq", [77.0]),
    ("tie_word_embeddings", [True, MISSING]),
    ("attention_bias", [True]),
    ("mlp_bias", [True]),
    ("logit_scale", [0.5]),
    ("logits_scaling", [4.0]),
    ("embedding_multiplier", [3.0]),
    ("residual_multiplier", [0.3]),
    ("attention_multiplier", [0.1]),
    ("final_logit_softcapping", [5.0]),
    ("attn_logit_softcapping", [3.0]),
    ("query_pre_attn_scalar", [7, MISSING]),
    ("sliding_window", [5, None, MISSING]),
    ("use_sliding_window", [True]),
    ("max_window_layers", [1]),
    ("sliding_window_pattern", [2, 3, "LG"]),
    ("layer_types", [MISSING, None]),
    ("hidden_act", ["gelu"]),
    ("hidden_activation", ["gelu", "silu", MISSING]),
    ("head_dim", [MISSING, 32]),
    ("rms_norm_eps", [1e-2]),
    ("layer_norm_eps", [1e-2]),
    ("max_position_embeddings", [16, MISSING]),
    ("original_max_position_embeddings", [16]),
    ("is_causal", [False]),
    ("use_bidirectional_attention", [True]),
    ("use_qk_norm", [False]),
    ("no_rope_layers", [[1, 0, 1, 0]]),
    ("attn_output_gate", [False]),
    ("norm_topk_prob", [False, MISSING]),
    ("num_experts_per_tok", [3, MISSING]),
    ("num_experts", [MISSING]),
    ("decoder_sparse_step", [2]),
    ("mlp_only_layers", [[0], MISSING]),
    ("moe_intermediate_size", [MISSING]),
    ("full_attention_interval", [2]),
    ("linear_conv_kernel_dim", [3, MISSING]),
    ("linear_num_value_heads", [2]),
    ("rope_traditional", [True]),
]


def parameters(config: dict[str, Any], kind: str) -> dict[str, np.ndarray]:
    """Random weights of the model that transformers makes of `config`, under the names that its files have."""
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
    rng, tied, state = np.random.default_rng(3), bool(model.config.tie_word_embeddings), {}
    for name, tensor in model.state_dict().items():
        offset = kind in OFFSET_NORMS and ".linear_attn." not in name
        usual = 1.0 if "norm" in name and not offset else 0.0
        values = (rng.normal(0, 0.2, tensor.shape) + usual).astype(np.float32)
        if not (tied and name == "lm_head.weight"):
            state["embed_out.weight" if kind == "GPTNeoX" and name == "lm_head.weight" else name] = values
    return state


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("key", "values"), CHANGES, ids=[f"{key}-{at}" for at, (key, _) in enumerate(CHANGES)])
def test_a_key_is_computed_as_transformers_does_or_refused(
    tmp_path: Path, kind: str, key: str, values: list[Any]
) -> None:
    for number, value in enumerate(values):
        config = {"model_type": TYPES[kind], "rms_norm_eps": 1e-5, "layer_norm_eps": 1e-5, "torch_dtype": "float32"}
        config |= SHAPE | KINDS[kind] | {key: value}
        config = json.loads(json.dumps({name: one for name, one in config.items() if one is not MISSING}))
        folder = write_tokenizer(tmp_path / f"source{number}")
        try:
            state = parameters(config, kind)
        except Exception:
            continue
        (folder / "config.json").write_text(json.dumps(config))
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        out = tmp_path / f"out{number}"
        try:
            convert(folder, out, dtype="fp32")
        except InputError:
            continue
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager"
            )
            with torch.no_grad():
                theirs = model.eval()(torch.tensor(TOKENS)).logits.numpy()
        except Exception:
            continue
        # A mistral's window closes its context: there is nothing to compare beyond it.
        closed = json.loads((out / "config.json").read_text())["max_position_embeddings"]
        rows = slice(0, closed if kind == "Mistral" else None)
        ours = np.array(mlx_lm.utils.load_model(out)[0](mx.array(TOKENS)))[:, rows]
        assert np.abs(ours - theirs[:, rows]).max() <= CLOSE * np.abs(theirs).max(), value
