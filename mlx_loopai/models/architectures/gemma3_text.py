"""Gemma 3, the text model: norms before and after attention and MLP; one block in six sees all, the others a window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr
from mlx_loopai.models.architectures.architecture import Architecture, Block, Kind
from mlx_loopai.models.architectures.llama import (
    GGUF_HEAD_NORMS,
    GGUF_NAMES,
    attention,
    dense_block,
    gated_mlp,
    head_norms,
)
from mlx_loopai.models.architectures.windows import kinds_of_layer_types, settle_window
from mlx_loopai.models.rope import written_scaling

if TYPE_CHECKING:
    from mlx_loopai.models.shape import ModelShape

_NORMS = (
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
)  # fmt: skip
_ACTIVATION = "gelu_pytorch_tanh"
# What transformers' configuration class assumes when a file leaves the key out.
_DEFAULTS = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 131_072,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
_PATTERN, _THETA, _LOCAL_THETA = 6, 1_000_000.0, 10_000.0


def _block(shape: ModelShape, kind: Kind) -> Block:
    norms = {f"{name}.weight": (shape.hidden_size,) for name in _NORMS}
    return dense_block(shape, attention(shape) | gated_mlp(shape), norms | head_norms(shape))


def _layer_types(config: Mapping[str, Any]) -> list[str]:
    every = config.get("sliding_window_pattern") or _PATTERN
    return [
        "sliding_attention" if (index + 1) % every else "full_attention" for index in range(config["num_hidden_layers"])
    ]


def kinds(config: Mapping[str, Any]) -> tuple[Kind, ...]:
    """Which blocks see a window only."""
    return kinds_of_layer_types(config.get("layer_types") or _layer_types(config))


def settle(config: dict[str, Any], where: str) -> None:
    """Write out what mlx-lm and transformers would guess differently; refuse what mlx-lm does not compute.

    Raises: InputError with all that is missing, absurd or not computed.
    """
    problems = settle_window(config, config.get("layer_types") or _layer_types(config))
    problems += _settle_pattern(config)
    activation = config.setdefault("hidden_activation", config.pop("hidden_act", None) or _ACTIVATION)
    if activation != _ACTIVATION:
        problems.append(
            tr(
                "hidden_activation is {activation!r}, {computed} is computed",
                activation=str(activation)[:40],
                computed=_ACTIVATION,
            )
        )
    if config.get("partial_rotary_factor") not in (None, 1):
        problems.append(
            tr(
                "partial_rotary_factor is {partial_rotary_factor}, 1 is computed",
                partial_rotary_factor=str(config["partial_rotary_factor"])[:40],
            )
        )
    for key in ("attention_bias", "use_bidirectional_attention", "final_logit_softcapping", "attn_logit_softcapping"):
        if config.get(key):
            problems.append(
                tr(
                    "{key} is {value}, for which mlx-lm's gemma3_text has no place",
                    key=key,
                    value=str(config[key])[:40],
                )
            )
    if problems:
        raise InputError(f"{where}: {all_problems(problems)}")
    _settle_rope(config, where)


def _settle_pattern(config: dict[str, Any]) -> list[str]:
    """The kinds of blocks, written as mlx-lm reads them: every `sliding_window_pattern`-th block sees all."""
    full = [index for index, name in enumerate(config["layer_types"]) if name == "full_attention"]
    every = full[0] + 1 if full else len(config["layer_types"]) + 1
    config["sliding_window_pattern"] = every
    if not full:
        return ["every block sees a window only, which mlx-lm cannot compute"]
    if full != list(range(every - 1, config["num_hidden_layers"], every)):
        return [f"layer_types has full_attention in the blocks {full[:8]}, mlx-lm has it in every n-th only"]
    return []


def _settle_rope(config: dict[str, Any], where: str) -> None:
    """Write the rotary settings as mlx-lm's flat keys, from transformers 5's settings by layer type or flat keys."""
    nested = config.pop("rope_parameters", None) or {}
    whole, local = (nested.get(kind) or {} for kind in ("full_attention", "sliding_attention"))
    if not all(isinstance(part, Mapping) for part in (nested, whole, local)):
        raise InputError(
            tr("{where}: rope_parameters is {nested} where an object is needed", where=where, nested=str(nested)[:80])
        )
    flat = config.get("rope_scaling") or {}
    if not isinstance(flat, Mapping):
        raise InputError(
            tr("{where}: rope_scaling is {flat} where an object is needed", where=where, flat=str(flat)[:80])
        )
    # transformers puts what the flat key says over the settings of the blocks that see all.
    whole = {**whole, **flat}
    if any(part.get("partial_rotary_factor") not in (None, 1) for part in (whole, local)):
        raise InputError(
            tr("{where}: partial_rotary_factor is not 1 in {rope}, 1 is computed", where=where, rope=str(whole)[:80])
        )
    if written_scaling(local, config, where) is not None:
        raise InputError(
            tr(
                "{where}: the rotary positions of sliding_attention are scaled, which mlx-lm does not compute",
                where=where,
            )
        )
    bases = {
        "rope_theta": whole.get("rope_theta", config.get("rope_theta") or _THETA),
        "rope_local_base_freq": local.get("rope_theta", config.get("rope_local_base_freq") or _LOCAL_THETA),
    }
    wrong = [
        f"{key} is {str(value)[:40]} where a positive number is needed"
        for key, value in bases.items()
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf")
    ]
    if wrong:
        raise InputError(f"{where}: {all_problems(wrong)}")
    scaling = written_scaling(whole, config, where)
    config |= bases | {"rope_scaling": scaling}
    # transformers 5 reads these, and not the flat keys, once there is a scaling.
    config["rope_parameters"] = {
        "full_attention": {"rope_type": "default", **(scaling or {}), "rope_theta": bases["rope_theta"]},
        "sliding_attention": {"rope_type": "default", "rope_theta": bases["rope_local_base_freq"]},
    }


_GGUF_NAMES = (
    GGUF_NAMES
    | GGUF_HEAD_NORMS
    | {
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
)
# llama.cpp recognises the largest released model by its number of blocks; its query scale differs from the others'.
_BLOCKS_OF_27B = 62


def gguf_query_scalar(config: Mapping[str, Any]) -> int:
    """The `query_pre_attn_scalar` that llama.cpp assumes, as GGUF files do not store it."""
    if config["num_hidden_layers"] == _BLOCKS_OF_27B:
        return int(config["hidden_size"] // config["num_attention_heads"])
    return int(config["head_dim"])


def _gguf_refuses(config: Mapping[str, Any]) -> str | None:
    scalar, scaling = gguf_query_scalar(config), config["rope_scaling"]
    if config["query_pre_attn_scalar"] != scalar:
        return f"a gemma3_text whose query_pre_attn_scalar is not llama.cpp's {scalar} is"
    if config["sliding_window_pattern"] != _PATTERN:
        return f"a gemma3_text in which not every {_PATTERN}th block sees all is"
    if config["rope_local_base_freq"] != _LOCAL_THETA:
        return f"a gemma3_text whose rope_local_base_freq is not {_LOCAL_THETA:g} is"
    if scaling is not None and scaling["rope_type"] != "linear":
        return f"a gemma3_text whose rope_scaling is {scaling['rope_type']} is"
    return None


GEMMA3_TEXT = Architecture(
    model_type="gemma3_text",
    text_type="gemma3_text",
    wrappers=("gemma3",),
    class_name="Gemma3ForCausalLM",
    gguf="gemma3",
    block=_block,
    gguf_names=_GGUF_NAMES,
    gguf_refuses=_gguf_refuses,
    gguf_one_higher=("layernorm.weight", "model.norm.weight", "q_norm.weight", "k_norm.weight"),
    layout="sandwich",
    activation="gelu",
    tied_by_default=True,
    scaled_embedding=True,
    kinds=kinds,
    defaults=_DEFAULTS,
    settle=settle,
)
