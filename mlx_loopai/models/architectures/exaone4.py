"""EXAONE 4: norms after the attention and after the MLP; in the larger model, most blocks have a sliding window."""

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
from mlx_loopai.models.rope import settle_rope

if TYPE_CHECKING:
    from mlx_loopai.models.shape import ModelShape


def _block(shape: ModelShape, kind: Kind) -> Block:
    norms = {
        f"{name}.weight": (shape.hidden_size,) for name in ("post_attention_layernorm", "post_feedforward_layernorm")
    }
    return dense_block(shape, attention(shape) | gated_mlp(shape), norms | head_norms(shape))


def _layer_types(config: Mapping[str, Any]) -> list[str]:
    """The kinds of blocks as transformers derives them: every n-th block sees all, or those that a pattern calls G."""
    blocks, pattern = config["num_hidden_layers"], config.get("sliding_window_pattern")
    if config.get("sliding_window") is None or not pattern:
        return ["full_attention"] * blocks
    if isinstance(pattern, str):
        seen = [pattern[index % len(pattern)] for index in range(blocks)]
    else:
        seen = ["L" if (index + 1) % pattern else "G" for index in range(blocks)]
    return ["sliding_attention" if letter == "L" else "full_attention" for letter in seen]


def kinds(config: Mapping[str, Any]) -> tuple[Kind, ...]:
    """Which blocks see a window only."""
    return kinds_of_layer_types(config.get("layer_types") or _layer_types(config))


def settle(config: dict[str, Any], where: str) -> None:
    """Write out what mlx-lm and transformers would guess differently; refuse what mlx-lm does not compute.

    Raises: InputError with all that is missing, absurd or not computed.
    """
    # None there means that every block sees all, and has rotary positions.
    config.setdefault("sliding_window", 4096)
    config.setdefault("sliding_window_pattern", 4)
    problems = []
    pattern = config["sliding_window_pattern"]
    if not (pattern is None or (isinstance(pattern, int) and pattern >= 0) or _is_letters(pattern)):
        raise InputError(
            tr(
                "{where}: sliding_window_pattern is {pattern!r}, such as LLLG or 4 is needed",
                where=where,
                pattern=str(pattern)[:40],
            )
        )
    problems += settle_window(config, config.get("layer_types") or _layer_types(config))
    windowed = [kind == "window" for kind in kinds(config)]
    # mlx-lm reads its pattern from letters, which it repeats.
    config["sliding_window_pattern"] = "".join("L" if one else "G" for one in windowed) if any(windowed) else None
    if any(windowed) and all(windowed):
        problems.append(tr("every block sees a window only, which mlx-lm cannot compute"))
    if not any(windowed) and config["sliding_window"] is not None:
        # Its blocks that see all would have no rotary positions there, and have them in mlx-lm.
        problems.append(tr("sliding_window is given, but no block of layer_types has it"))
    if config.get("hidden_act", "silu") != "silu":
        problems.append(tr("hidden_act is {hidden_act!r}, silu is computed", hidden_act=str(config["hidden_act"])[:40]))
    if problems:
        raise InputError(f"{where}: {all_problems(problems)}")
    settle_rope(config, where)
    # mlx-lm wants these keys.
    config.setdefault("rope_scaling", None)
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])


# The norms lie behind the attention and behind the MLP.
_GGUF_NAMES = {theirs: ours for theirs, ours in GGUF_NAMES.items() if not theirs.endswith("_norm")} | {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def _is_letters(pattern: object) -> bool:
    return isinstance(pattern, str) and bool(pattern) and set(pattern) <= {"L", "G"}


# llama.cpp gives windows to models of this many blocks (the released 32B) only; every fourth block has none.
GGUF_WINDOWED_BLOCKS, GGUF_WINDOW_PATTERN = 64, "LLLG"


def _gguf_refuses(config: Mapping[str, Any]) -> str | None:
    blocks = config["num_hidden_layers"]
    pattern = "".join("L" if kind == "window" else "G" for kind in kinds(config))
    theirs = GGUF_WINDOW_PATTERN * (blocks // 4) if blocks == GGUF_WINDOWED_BLOCKS else "G" * blocks
    if pattern == theirs:
        return None
    return f"{blocks} blocks of exaone4 with the windows {pattern[:12]}, where llama.cpp has {theirs[:12]}, are"


EXAONE4 = Architecture(
    model_type="exaone4",
    class_name="Exaone4ForCausalLM",
    gguf="exaone4",
    block=_block,
    gguf_names=_GGUF_NAMES | GGUF_HEAD_NORMS,
    gguf_refuses=_gguf_refuses,
    layout="post_norm",
    max_positions=2048,
    kinds=kinds,
    defaults={"rms_norm_eps": 1e-5},
    settle=settle,
)
