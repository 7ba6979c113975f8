"""Qwen3.5, dense: three blocks of linear attention (the gated delta rule), then one of softmax attention with a gate.

Released checkpoints hold a vision tower and a predictor of several tokens beside the text model; only that is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr
from mlx_loopai.models.architectures.architecture import Architecture, Block, DeltaHeads, Kind, Linear, Shape
from mlx_loopai.models.architectures.llama import (
    GGUF_HEAD_NORMS,
    GGUF_NAMES,
    attention,
    attention_kept,
    gated_mlp,
    head_norms,
    mlp_kept,
    two_norms,
)
from mlx_loopai.models.pass_sizes import SPAN_TOKENS

if TYPE_CHECKING:
    from mlx_loopai.models.shape import ModelShape

# With the values that transformers' configuration class assumes.
_SIZES = {
    "head_dim": 256,
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
_GGUF_NAMES = {theirs: ours for theirs, ours in (GGUF_NAMES | GGUF_HEAD_NORMS).items() if theirs != "ffn_norm"} | {
    "post_attention_norm": "post_attention_layernorm",
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
}
_THETA, _ROTARY_SHARE = 10_000.0, 0.25


def linear_attention(shape: ModelShape) -> tuple[dict[str, Linear], dict[str, Shape]]:
    """(the linears of the gated delta rule's layer, its other tensors)."""
    assert shape.delta is not None
    heads, hidden = shape.delta, shape.hidden_size
    sizes = {"qkv": heads.mixed_size, "z": heads.values_width, "b": heads.values, "a": heads.values}
    linears = {f"linear_attn.in_proj_{part}": Linear(size, hidden, reads="attention") for part, size in sizes.items()}
    linears["linear_attn.out_proj"] = Linear(hidden, heads.values_width, reads="mixed")
    others: dict[str, Shape] = {
        "linear_attn.conv1d.weight": (heads.mixed_size, 1, heads.kernel),
        "linear_attn.dt_bias": (heads.values,),
        "linear_attn.A_log": (heads.values,),
        "linear_attn.norm.weight": (heads.value_size,),
    }
    return linears, others


def linear_attention_kept(shape: ModelShape) -> int:
    """Numbers per token that it keeps: states before and after its norm, its projections' outputs, a memory a span."""
    assert shape.delta is not None
    heads = shape.delta
    memory = heads.values_width * heads.key_size // SPAN_TOKENS
    return 2 * shape.hidden_size + heads.mixed_size + heads.values_width + 2 * heads.values + memory


def gated_attention(shape: ModelShape) -> dict[str, Linear]:
    """Softmax attention whose q_proj gives the queries and, head by head, a gate for what is attended to."""
    linears = attention(shape, "qkvo" if shape.attention_bias else "")
    queries = linears["self_attn.q_proj"]
    return linears | {"self_attn.q_proj": Linear(2 * queries.out, queries.into, reads=queries.reads, bias=queries.bias)}


def mixer(shape: ModelShape, kind: Kind) -> tuple[dict[str, Linear], dict[str, Shape], int]:
    """(the linears of a block's attention, all norms and other tensors, the numbers per token that it keeps)."""
    if kind == "full":
        # Its gate, and what is attended to before it.
        kept = attention_kept(shape) + 2 * shape.attention_size
        return gated_attention(shape), two_norms(shape) | head_norms(shape), kept
    linears, others = linear_attention(shape)
    return linears, two_norms(shape) | others, linear_attention_kept(shape)


def _block(shape: ModelShape, kind: Kind) -> Block:
    linears, others, kept = mixer(shape, kind)
    return Block(linears | gated_mlp(shape), others, kept, mlp_kept(shape))


def kinds(config: Mapping[str, Any]) -> tuple[Kind, ...]:
    """Every `full_attention_interval`-th block attends."""
    every = _interval(config)
    return tuple("linear" if (index + 1) % every else "full" for index in range(config["num_hidden_layers"]))


def _interval(config: Mapping[str, Any]) -> int:
    # transformers saves layer_types without the interval, and lets them win.
    given = config.get("layer_types")
    if isinstance(given, list) and "full_attention" in given:
        return given.index("full_attention") + 1
    return config.get("full_attention_interval", _SIZES["full_attention_interval"])


def delta_heads(config: Mapping[str, Any]) -> DeltaHeads:
    """The heads of the linear attention."""
    found = _SIZES | {key: config[key] for key in _SIZES if config.get(key) is not None}
    return DeltaHeads(
        keys=found["linear_num_key_heads"],
        values=found["linear_num_value_heads"],
        key_size=found["linear_key_head_dim"],
        value_size=found["linear_value_head_dim"],
        kernel=found["linear_conv_kernel_dim"],
    )


def settle(config: dict[str, Any], where: str) -> None:
    """Write out what mlx-lm and transformers would guess differently; refuse what mlx-lm does not compute.

    Raises: InputError with all that is missing, absurd or not computed.
    """
    whole = [f"{key} is {config[key]!r} where a positive whole number is needed" for key in _SIZES if _bad(config[key])]
    if whole:
        raise InputError(f"{where}: {all_problems(whole)}")
    config["full_attention_interval"] = _interval(config)
    wanted = [f"{kind}_attention" for kind in kinds(config)]
    config["layer_types"], given = wanted, config.get("layer_types") or wanted
    problems = []
    if given != wanted:
        problems.append(
            tr("layer_types does not have full_attention in every n-th block, linear_attention in all others")
        )
    elif len(set(wanted)) == 1:
        # Neither mlx-lm's mask nor its recognition of transformers' norms works then.
        problems.append(
            tr("all {count} blocks have {kind}, mlx-lm needs both kinds", count=len(wanted), kind=wanted[0])
        )
    if config["linear_num_value_heads"] % config["linear_num_key_heads"]:
        problems.append(tr("linear_num_value_heads does not divide by linear_num_key_heads"))
    if config.get("hidden_act", "silu") != "silu":
        problems.append(tr("hidden_act is {hidden_act!r}, silu is computed", hidden_act=str(config["hidden_act"])[:40]))
    if config.get("attn_output_gate", True) is not True:
        problems.append(tr("attn_output_gate is off, which mlx-lm's attention cannot be"))
    problems += _settle_rope(config)
    if problems:
        raise InputError(f"{where}: {all_problems(problems)}")


def _settle_dense(config: dict[str, Any], where: str) -> None:
    """As `settle`. Raises: InputError as it does."""
    # mlx-lm has one class for both models, and makes experts of it; transformers' dense model has none.
    if "num_experts" in config:
        config["num_experts"] = 0
    settle(config, where)


def _settle_rope(config: dict[str, Any]) -> list[str]:
    """The rotary settings in one place, `rope_parameters`, where both loaders look; what is wrong with them."""
    nested = config.pop("rope_scaling", None) or config.get("rope_parameters") or {}
    if not isinstance(nested, Mapping):
        return [f"rope_parameters is {str(nested)[:40]!r} where an object is needed"]
    kind = nested.get("rope_type") or nested.get("type") or "default"
    # Outside the object mlx-lm does not look.
    base, share = (nested.get(key, config.pop(key, None)) for key in ("rope_theta", "partial_rotary_factor"))
    written = dict(nested) | {
        "rope_type": "default",
        "rope_theta": _THETA if base is None else base,
        "partial_rotary_factor": _ROTARY_SHARE if share is None else share,
    }
    written.pop("type", None)
    config["rope_parameters"] = written
    config.pop("rope_theta", None)
    config.pop("partial_rotary_factor", None)
    problems = []
    if kind not in ("default", "mrope"):
        problems.append(tr("rope type {kind!r} is not computed for this architecture", kind=str(kind)[:40]))
    for key in ("rope_theta", "partial_rotary_factor"):
        value = written[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            problems.append(tr("{key} is {value} where a positive number is needed", key=key, value=str(value)[:40]))
    if not problems and int(config["head_dim"] * written["partial_rotary_factor"]) % 2:
        problems.append(tr("an odd number of a head's values would be rotated"))
    return problems


def _bad(value: object) -> bool:
    return isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31


def _gguf_refuses(config: Mapping[str, Any]) -> str | None:
    heads = delta_heads(config)
    if heads.key_size == heads.value_size:
        return None
    return f"a {config['model_type']} whose linear attention has keys and values of different widths is"


_ONE_HIGHER = (
    "input_layernorm.weight", "post_attention_layernorm.weight", "model.norm.weight", "q_norm.weight", "k_norm.weight",
)  # fmt: skip
QWEN3_5 = Architecture(
    model_type="qwen3_5",
    text_type="qwen3_5_text",
    class_name="Qwen3_5ForCausalLM",
    gguf="qwen35",
    block=_block,
    gguf_names=_GGUF_NAMES,
    gguf_tensors={"ssm_a": "linear_attn.A_log", "ssm_dt.bias": "linear_attn.dt_bias"},
    mlx_blocks="language_model.model.layers",
    head_dim=_SIZES["head_dim"],
    kinds=kinds,
    delta_heads=delta_heads,
    defaults=_SIZES | {"rms_norm_eps": 1e-6},
    settle=_settle_dense,
    kept_dtypes=("linear_attn.A_log",),
    mlx_prefix="language_model.",
    mlx_one_higher=_ONE_HIGHER,
    gguf_one_higher=_ONE_HIGHER,
    gguf_refuses=_gguf_refuses,
)
