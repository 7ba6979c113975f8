"""Names the fields of a config.json that no loader reads, so that what they ask for is not silently ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_loopai.models.configuration_keys import KEYS, KINDS

# What decides nothing of the text model: who wrote the file, what training did, which tokens end a text (generation
# reads those) or stand for pictures (models/vision reads those).
_BOOKKEEPING = frozenset(
    "_attn_implementation _name_or_path architectures attention_dropout attn_implementation auto_map bos_token_id"
    " classifier_dropout dtype eos_token_id hidden_dropout id2label image_token_id initializer_range is_decoder"
    " label2id model_file model_type num_labels pad_token_id pretraining_tp quantization tokenizer_class torch_dtype"
    " transformers_version unsloth_fixed unsloth_version use_cache video_token_id vision_end_token_id"
    " vision_start_token_id vision_token_id".split()
)


_EXPERTS = (
    "decoder_sparse_step mlp_only_layers moe_intermediate_size norm_topk_prob num_experts num_experts_per_tok"
    " num_local_experts output_router_logits router_aux_loss_coef shared_expert_intermediate_size"
)
_DELTA = (
    "attn_output_gate full_attention_interval linear_conv_kernel_dim linear_key_head_dim linear_num_key_heads"
    " linear_num_value_heads linear_value_head_dim mamba_ssm_dtype rope_parameters.mrope_interleaved"
    " rope_parameters.mrope_section"
)
# Architectures whose own files say what becomes of their keys, and the keys that they have beside those of the table.
_OTHERS = {
    "qwen3_moe": frozenset(_EXPERTS.split()),
    "qwen3_5": frozenset(f"{_DELTA} {_EXPERTS}".split()),
    "qwen3_5_moe": frozenset(f"{_DELTA} {_EXPERTS}".split()),
    "exaone4": frozenset({"sliding_window_pattern"}),
    "gemma3_text": frozenset(
        "attn_logit_softcapping boi_token_index cache_implementation eoi_token_index final_logit_softcapping"
        " hidden_activation image_token_index mm_tokens_per_image query_pre_attn_scalar rope_local_base_freq"
        " rope_parameters.full_attention rope_parameters.sliding_attention sliding_window_pattern"
        " use_bidirectional_attention".split()
    ),
}


def unused_fields(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of fields in a config.json that neither this program nor another loader of such models reads.

    Empty for architectures that are not supported.
    """
    kind = raw.get("model_type")
    if kind in KINDS:
        known = {key.name for key in KEYS if kind in key.of} | _BOOKKEEPING
    elif isinstance(kind, str) and kind in _OTHERS:
        known = {key.name for key in KEYS} | _BOOKKEEPING | _OTHERS[kind]
    else:
        return ()
    inside = {name.removeprefix("rope_scaling.").removeprefix("rope_parameters.") for name in known}
    found = [name for name, value in raw.items() if value not in (None, False, {}, []) and name not in known]
    for place in ("rope_scaling", "rope_parameters"):
        inner = raw.get(place)
        found += [f"{place}.{name}" for name in inner if name not in inside] if isinstance(inner, Mapping) else []
    return tuple(sorted(found))
