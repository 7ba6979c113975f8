"""A model's config.json made complete: every value that a loader would guess is written out.

The reference is transformers, since checkpoints are made with it. Where mlx-lm's model of the same architecture would
compute something else, the configuration is rewritten, or refused by name where that is not possible.
docs/conversion.md lists this key by key. Pure: no mlx.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr
from mlx_loopai.models.architectures import ARCHITECTURES, text_part
from mlx_loopai.models.rope import drop_rope, read_rope, settle_rope

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
DEFAULT_MAX_POSITIONS = 32_768
_MISTRAL_WINDOW = 4096
# mlx-lm's gpt_neox takes the tanh approximation for all of them: up to 5e-4 an activation.
_NEOX_ACTIVATIONS = ("gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh")
# No dimension of a model comes near this; a larger one is a damaged file.
_MAX_SIZE = 1 << 31


def complete_configuration(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The configuration of a supported architecture with all its values written out, in mlx-lm's and the flat names.

    `tie_word_embeddings` stays as it is: only the weights can say what it means.

    Raises:
        InputError: a field that is missing or absurd, or that would make mlx-lm silently compute something else.
    """
    config = text_part(raw)
    if not config.get("is_causal", True):
        raise InputError(
            tr("{where}: is_causal is false: tokens would see later ones, which mlx-lm does not compute", where=where)
        )
    kind = config["model_type"]
    architecture = ARCHITECTURES[kind]
    config |= {key: value for key, value in architecture.defaults.items() if config.get(key) is None}
    # Where every MLP is an expert, the configuration has no other width.
    if config.get("intermediate_size") is None and config.get("moe_intermediate_size") is not None:
        config["intermediate_size"] = config["moe_intermediate_size"]
    # No loader reads the key for gpt_neox, which has no grouped queries.
    if config.get("num_key_value_heads") is None or kind == "gpt_neox":
        config["num_key_value_heads"] = config.get("num_attention_heads")
    if architecture.head_dim is not None and config.get("head_dim") is None:
        config["head_dim"] = architecture.head_dim
    elif config.get("head_dim", 0) is None:
        del config["head_dim"]
    if config.get("max_position_embeddings") is None:
        config["max_position_embeddings"] = architecture.max_positions
    if architecture.settle is not None:
        check_sizes(config, where)
        architecture.settle(config, where)
        check_sizes(config, where)
        return config
    _write_rope(config, where)
    _write_biases(config, where)
    check_sizes(config, where)
    _check_assumptions(config, where)
    _close_window(config, where)
    return config


def loader_overrides(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values that a loader which reads `raw` itself must replace; a key that would mislead it becomes None.

    Raises: InputError as `complete_configuration` does.
    """
    complete = complete_configuration(raw, where)
    if isinstance(raw.get("text_config"), Mapping):
        # mlx-lm's gemma3 takes the vocabulary from beside the text model.
        return {"text_config": complete, "vocab_size": complete["vocab_size"]}
    dropped = {key: None for key in raw if key not in complete}
    return dropped | {key: value for key, value in complete.items() if key not in raw or raw[key] != value}


def foreign_quantization(config: Mapping[str, Any]) -> str | None:
    """The tool that quantised the weights: awq, gptq, fp8, bitsandbytes, ...; None: none, or MLX."""
    found = config.get("quantization_config")
    if not found or config.get("quantization") == found:
        return None
    if not isinstance(found, Mapping):
        return "an unknown tool"
    for key in ("quant_method", "quant_type"):
        if isinstance(found.get(key), str):
            return found[key][:40]
    return "bitsandbytes" if {"load_in_4bit", "load_in_8bit"} & found.keys() else "an unknown tool"


def refuse_foreign_quantization(config: Mapping[str, Any], where: str) -> None:
    """Raises: InputError when another tool than MLX quantised the weights."""
    tool = foreign_quantization(config)
    if tool is not None:
        raise InputError(
            tr(
                "{where}: the weights are already quantised by {tool} (quantization_config), which is not read here; "
                "give the original fp32, bf16 or fp16 checkpoint",
                where=where,
                tool=tool,
            )
        )


def _write_rope(config: dict[str, Any], where: str) -> None:
    if config["model_type"] == "gpt_neox":
        config["rotary_emb_base"], config["rotary_pct"], _ = read_rope(config, where)
        drop_rope(config)
    else:
        settle_rope(config, where)
    if config.get("rope_traditional"):
        raise InputError(
            tr("{where}: rope_traditional is true, which transformers ignores and mlx-lm does not", where=where)
        )


def _write_biases(config: dict[str, Any], where: str) -> None:
    kind = config["model_type"]
    if kind == "qwen3" and config.get("attention_bias"):
        raise InputError(tr("{where}: attention_bias is true, for which mlx-lm's qwen3 has no place", where=where))
    if kind == "gpt_neox":
        config.setdefault("use_parallel_residual", True)
        if config.get("attention_bias") is False:
            raise InputError(
                tr("{where}: attention_bias is false, but mlx-lm's gpt_neox has these biases always", where=where)
            )
    if kind == "mistral":
        # mlx-lm runs it as llama, which has both; transformers' mistral has neither.
        config.pop("attention_bias", None)
        config.pop("mlp_bias", None)


def check_sizes(config: Mapping[str, Any], where: str) -> None:
    """Raises: InputError with every size that is missing or absurd, or when they do not divide."""
    whole = [*_SIZES, "max_position_embeddings", *(["head_dim"] if "head_dim" in config else [])]
    neox = config["model_type"] == "gpt_neox"
    real = ["layer_norm_eps", "rotary_emb_base", "rotary_pct"] if neox else ["rms_norm_eps"]
    # Where an architecture keeps it elsewhere, its own file looks at it.
    real += ["rope_theta"] if "rope_theta" in config and not neox else []
    problems = []
    for name in whole:
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MAX_SIZE:
            problems.append(
                tr("{name} is {value} where a positive whole number is needed", name=name, value=repr(value)[:40])
            )
    for name in real:
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            problems.append(
                tr("{name} is {value} where a positive number is needed", name=name, value=repr(value)[:40])
            )
    if problems:
        raise InputError(f"{where}: {all_problems(problems)}")
    heads, kv_heads, hidden = config["num_attention_heads"], config["num_key_value_heads"], config["hidden_size"]
    if heads % kv_heads or ("head_dim" not in config and hidden % heads):
        raise InputError(
            tr(
                "{where}: hidden_size {hidden}, {heads} heads and {kv_heads} key/value heads do not divide",
                where=where,
                hidden=hidden,
                heads=heads,
                kv_heads=kv_heads,
            )
        )
    head_dim = config.get("head_dim", hidden // heads)
    rotated = int(head_dim * config["rotary_pct"]) if neox else head_dim
    if rotated % 2 or not rotated:
        raise InputError(
            tr(
                "{where}: {rotated} values of a head of {head_dim} are rotated, which is not an even number",
                where=where,
                rotated=rotated,
                head_dim=head_dim,
            )
        )


def _check_assumptions(config: Mapping[str, Any], where: str) -> None:
    """Refuse what mlx-lm's model of this architecture would silently compute differently."""
    kind, hidden, heads = config["model_type"], config["hidden_size"], config["num_attention_heads"]
    if kind in ("qwen2", "gpt_neox") and config.get("head_dim", hidden // heads) != hidden // heads:
        raise InputError(
            tr(
                "{where}: head_dim {head_dim} is not {hidden}, which mlx-lm assumes",
                where=where,
                head_dim=config["head_dim"],
                hidden=hidden // heads,
            )
        )
    if kind == "gpt_neox" and config["intermediate_size"] != 4 * hidden:
        raise InputError(
            tr("{where}: intermediate_size is not 4 * hidden_size, which mlx-lm's gpt_neox assumes", where=where)
        )
    activations = _NEOX_ACTIVATIONS if kind == "gpt_neox" else ("silu",)
    if config.get("hidden_act", activations[0]) not in activations:
        raise InputError(
            tr(
                "{where}: hidden_act {hidden_act!r} is not supported; {activations} is",
                where=where,
                hidden_act=str(config["hidden_act"])[:40],
                activations=", ".join(activations),
            )
        )


def _close_window(config: dict[str, Any], where: str) -> None:
    """Limit the text to the sliding window: mlx-lm attends to everything, which is the same only within the window."""
    kind = config["model_type"]
    if kind in ("qwen2", "qwen3"):
        _refuse_sliding_blocks(config, where)
    elif kind == "llama":
        # transformers' llama knows neither; mlx-lm's would slide.
        config.pop("layer_types", None)
        config.pop("sliding_window", None)
    elif kind == "mistral":
        config.pop("layer_types", None)
        window = config.get("sliding_window", _MISTRAL_WINDOW)
        if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window <= 0):
            raise InputError(
                tr(
                    "{where}: sliding_window is {window} where a positive whole number is needed",
                    where=where,
                    window=repr(window)[:40],
                )
            )
        if window is not None and window < config["max_position_embeddings"]:
            if (config.get("rope_scaling") or {}).get("rope_type") == "dynamic":
                raise InputError(
                    tr("{where}: a sliding_window together with dynamic rope scaling is not computed here", where=where)
                )
            config["max_position_embeddings"] = window
        config["sliding_window"] = None


def _refuse_sliding_blocks(config: dict[str, Any], where: str) -> None:
    blocks, first = config["num_hidden_layers"], config.get("max_window_layers")
    kinds = config.get("layer_types")
    if kinds is not None and (not isinstance(kinds, list) or set(map(str, kinds)) != {"full_attention"}):
        raise InputError(
            tr(
                "{where}: layer_types asks for other than full_attention, which mlx-lm ignores for {model_type}",
                where=where,
                model_type=config["model_type"],
            )
        )
    if not config.get("use_sliding_window"):
        return
    # transformers slides from block `max_window_layers` on.
    reached = kinds is None and not (isinstance(first, int) and first >= blocks)
    if reached and config.get("sliding_window", _MISTRAL_WINDOW) is not None:
        raise InputError(
            tr(
                "{where}: use_sliding_window is true, which mlx-lm ignores for {model_type}, so long texts would give "
                "other results; set it to false if the context stays within the window",
                where=where,
                model_type=config["model_type"],
            )
        )
    config["use_sliding_window"] = False
