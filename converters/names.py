"""What the tensors of each supported architecture are called, and how large each must be.

Hugging Face and mlx-lm share their names for these architectures; GGUF has its own. A checkpoint is compared with
the full list of names and shapes that its configuration implies, so a wrong, missing or surplus tensor is found
before anything is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr
from mlx_loopai.models.architectures import ARCHITECTURES, Architecture, architecture_of, not_supported
from mlx_loopai.models.architectures.llama import LLAMA
from mlx_loopai.models.shape import ModelShape

__all__ = ["Architecture", "architecture_of"]

# As all but gpt_neox have them.
EMBEDDING, HEAD = LLAMA.embedding, LLAMA.head

# Where several of our architectures have one name in llama.cpp, the first is read: without its window, mistral is
# llama.
_BY_GGUF_NAME: dict[str, Architecture] = {}
for _each in ARCHITECTURES.values():
    if _each.gguf is not None:
        _BY_GGUF_NAME.setdefault(_each.gguf, _each)

# Values computed from the configuration that old exports stored among the weights.
_BUFFER = re.compile(
    r"(rotary_emb\.inv_freq|\.(attn|attention)\.(masked_)?bias|embeddings\.(position|token_type)_ids)$"
)


def gguf_architecture(name: object, where: str) -> Architecture:
    """The architecture that GGUF's `general.architecture` calls `name`.

    Raises:
        InputError: no supported architecture has this name.
    """
    if isinstance(name, str) and name in _BY_GGUF_NAME:
        return _BY_GGUF_NAME[name]
    raise not_supported(name, _BY_GGUF_NAME, where)


def hf_name(gguf_name: str, architecture: Architecture) -> str | None:
    """`blk.3.attn_q.bias` -> `model.layers.3.self_attn.q_proj.bias`; None for a name that has no counterpart."""
    stem, _, kind = gguf_name.rpartition(".")
    if stem in architecture.gguf_top:
        return f"{architecture.gguf_top[stem]}.{kind}"
    whole = re.fullmatch(r"blk\.(\d{1,6})\.([\w.]+)", gguf_name, re.ASCII)
    if whole and whole[2] in architecture.gguf_tensors:
        return f"{architecture.prefix}.layers.{whole[1]}.{architecture.gguf_tensors[whole[2]]}"
    match = re.fullmatch(r"blk\.(\d{1,6})\.(\w+)", stem, re.ASCII)
    if match and match[2] in architecture.gguf_names:
        return f"{architecture.prefix}.layers.{match[1]}.{architecture.gguf_names[match[2]]}.{kind}"
    return None


def gguf_name(name: str, architecture: Architecture) -> str | None:
    """The inverse of `hf_name`; None for a name that GGUF does not have."""
    stem, _, kind = name.rpartition(".")
    for theirs, ours in architecture.gguf_top.items():
        if stem == ours:
            return f"{theirs}.{kind}"
    block = re.escape(architecture.prefix) + r"\.layers\.(\d{1,6})\.([\w.]+)"
    whole = re.fullmatch(block, name)
    for theirs, ours in architecture.gguf_tensors.items() if whole else ():
        if whole and whole[2] == ours:
            return f"blk.{whole[1]}.{theirs}"
    match = re.fullmatch(block, stem)
    for theirs, ours in architecture.gguf_names.items() if match else ():
        if match and match[2] == ours:
            return f"blk.{match[1]}.{theirs}.{kind}"
    return None


def is_buffer(name: str) -> bool:
    """Whether `name` is a stored constant that every loader computes itself."""
    return _BUFFER.search(name) is not None


def expected_tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a model with this (complete) configuration has, in model order."""
    shape = ModelShape.from_config(config)
    architecture = ARCHITECTURES[shape.architecture]
    table = (shape.vocab_size, shape.hidden_size)
    expected: dict[str, tuple[int, ...]] = {architecture.embedding: table}
    for layer, block in enumerate(shape.blocks):
        prefix = f"{architecture.prefix}.layers.{layer}"
        expected |= {f"{prefix}.{name}": size for name, size in block.tensors().items()}
    expected |= {f"{architecture.final_norm}.{kind}": (shape.hidden_size,) for kind in architecture.norm_kinds}
    if architecture.always_own_head or not shape.tied_head:
        expected[architecture.head] = table
    return expected


def check_tensors(found: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], where: str) -> None:
    """Compare the tensors of a checkpoint with what its configuration implies.

    Raises:
        InputError: a tensor is missing, surplus or of another shape; all of them are named at once.
    """
    layers = config["num_hidden_layers"]
    # A configuration that lies about its depth must not make us list a billion names.
    if layers > len(found):
        raise InputError(
            tr(
                "{where}: the configuration says {layers} layers but there are only {n_found} tensors; the file "
                "is incomplete or the configuration belongs to another model",
                where=where,
                layers=layers,
                n_found=len(found),
            )
        )
    compare_tensors(found, expected_tensors(config), str(config["model_type"]), where)


def compare_tensors(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], kind: str, where: str
) -> None:
    """Compare shapes by name. kind: what the expected tensors are parts of, for messages, such as qwen2.

    Raises: InputError as `check_tensors`.
    """
    problems = [f"{name} is missing" for name in _sorted(expected.keys() - found.keys())]
    problems += [f"{name[:120]!r} is not a part of {kind}" for name in _sorted(found.keys() - expected.keys())]
    problems += [
        f"{name} has the shape {list(found[name])} where the configuration needs {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if problems:
        raise InputError(
            tr(
                "{where}: tensors and configuration disagree: {problems}",
                where=where,
                problems=all_problems(problems, limit=4),
            )
        )


def _sorted(names: Iterable[str]) -> list[str]:
    """Names with their numbers in numeric order, so that layer 2 comes before layer 10."""
    return sorted(names, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])
