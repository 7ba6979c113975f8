"""Names of the modules in a model's blocks, as mlx-lm has them."""

from __future__ import annotations

import re

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.architectures import ARCHITECTURES

_BLOCKS = sorted({re.escape(each.mlx_blocks) for each in ARCHITECTURES.values()})
_MODULE = re.compile(rf"(?P<blocks>{'|'.join(_BLOCKS)})\.(?P<number>\d{{1,6}})\.(?P<name>[\w.]+)")


# The module of a block that holds its experts, as mlx-lm calls it.
EXPERTS = "switch_mlp"


def target_of(name: str) -> str:
    """What `lora.targets` calls a linear: the last part of its name, after `switch_mlp.` where it is of experts."""
    parts = name.rsplit(".", 2)
    return ".".join(parts[-2:]) if is_of_experts(name) else parts[-1]


def is_of_experts(name: str) -> bool:
    """Whether a module is one of a block's stacked matrices of experts."""
    return name.rsplit(".", 2)[-2:-1] == [EXPERTS]


def split_module(name: str) -> tuple[int, str]:
    """`model.layers.3.self_attn.q_proj` -> (3, "self_attn.q_proj"). Raises: InputError for a name of another form."""
    match = _MODULE.fullmatch(name)
    if match is None:
        raise InputError(
            tr(
                "{name!r}: adapters are supported on the linear layers of blocks (model.layers.N.) only",
                name=name[:120],
            )
        )
    return int(match["number"]), match["name"]


def blocks_of(name: str) -> str:
    """Where the blocks are: `model.layers` of `model.layers.3.self_attn.q_proj`. Raises: InputError."""
    number, rest = split_module(name)
    return name.removesuffix(f".{number}.{rest}")


def with_blocks(name: str, blocks: str) -> str:
    """`name` in a model that has its blocks at `blocks`; unchanged where it names no module of a block."""
    match = _MODULE.match(name)
    return name if match is None else f"{blocks}{name[match.end('blocks') :]}"
