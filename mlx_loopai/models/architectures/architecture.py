"""What the rest of the program must know of an architecture, as plain values: one record for each, in a file each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mlx_loopai.models.shape import ModelShape

Shape = tuple[int, ...]
Layout = Literal["pre_norm", "parallel"]


@dataclass(frozen=True)
class Linear:
    """A matrix (out, into) that a block multiplies with. Linears with the same `reads` have the same input."""

    out: int
    into: int
    reads: str
    bias: bool = False


@dataclass(frozen=True)
class Block:
    """The tensors of one block by their names in it: what an adapter may be put on, and what never gets one."""

    linears: Mapping[str, Linear]
    others: Mapping[str, Shape]

    def tensors(self) -> dict[str, Shape]:
        """Every tensor of the block with its shape; `input_layernorm.weight`, `self_attn.q_proj.bias`."""
        found = dict(self.others)
        for name, linear in self.linears.items():
            found[f"{name}.weight"] = (linear.out, linear.into)
            if linear.bias:
                found[f"{name}.bias"] = (linear.out,)
        return found


@dataclass(frozen=True)
class Architecture:
    """A decoder that mlx-lm runs, and that we convert, plan, train and run.

    model_type: mlx-lm's name for it. class_name: transformers'; gguf: llama.cpp's.
    block: the tensors of a block of a shape. layout: how models/backbone.py runs a block.
    prefix: what tensor names in a checkpoint begin with; mlx_blocks: where mlx-lm's model has its blocks.
    embedding, head: these tensors of a checkpoint; final_norm: the module between the blocks and the head.
    gguf_names: llama.cpp's names of a block's modules, and ours.
    always_own_head: mlx-lm's model has a head of its own whatever the configuration says.
    """

    model_type: str
    class_name: str
    gguf: str
    block: Callable[[ModelShape], Block]
    gguf_names: Mapping[str, str]
    layout: Layout = "pre_norm"
    prefix: str = "model"
    mlx_blocks: str = "model.layers"
    embedding: str = "model.embed_tokens.weight"
    final_norm: str = "model.norm"
    head: str = "lm_head.weight"
    norm_kinds: tuple[str, ...] = ("weight",)
    tied_by_default: bool = False
    always_own_head: bool = False
    head_dim: int | None = None
    max_positions: int = 32_768

    @property
    def gguf_top(self) -> dict[str, str]:
        """llama.cpp's names of the modules outside the blocks, and ours."""
        embedding, head = self.embedding.removesuffix(".weight"), self.head.removesuffix(".weight")
        return {"token_embd": embedding, "output_norm": self.final_norm, "output": head}
