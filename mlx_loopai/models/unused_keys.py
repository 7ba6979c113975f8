"""Names the fields of a config.json that no loader reads, so that what they ask for is not silently ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_loopai.models.configuration_keys import KEYS, KINDS

# What decides nothing of the text model: who wrote the file, what training did, which tokens end a text (generation
# reads those) or stand for pictures (models/vision reads those).
_BOOKKEEPING = frozenset(
    "_attn_implementation _name_or_path architectures attention_dropout attn_implementation auto_map"
    " boi_token_index bos_token_id cache_implementation classifier_dropout dtype eoi_token_index eos_token_id"
    " hidden_dropout id2label image_token_id image_token_index initializer_range is_decoder label2id"
    " mm_tokens_per_image model_file model_type num_labels pad_token_id pretraining_tp quantization"
    " tokenizer_class torch_dtype transformers_version unsloth_fixed unsloth_version use_cache video_token_id"
    " vision_end_token_id vision_start_token_id vision_token_id".split()
)


def unused_fields(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of fields in a config.json that neither this program nor another loader of such models reads.

    Empty for architectures that are not supported.
    """
    kind = raw.get("model_type")
    if kind not in KINDS:
        return ()
    known = {key.name for key in KEYS if kind in key.of} | _BOOKKEEPING
    inside = {name.removeprefix("rope_scaling.").removeprefix("rope_parameters.") for name in known}
    found = [name for name, value in raw.items() if value not in (None, False, {}, []) and name not in known]
    for place in ("rope_scaling", "rope_parameters"):
        inner = raw.get(place)
        found += [f"{place}.{name}" for name in inner if name not in inside] if isinstance(inner, Mapping) else []
    return tuple(sorted(found))
