"""The record type that describes an architecture to the rest of the program, as plain values; one file for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from mlx_loopai.models.shape import ModelShape

Shape = tuple[int, ...]
Layout = Literal["pre_norm", "post_norm", "sandwich", "parallel"]
# Of the gated MLP.
Activation = Literal["silu", "gelu"]
# What a block's tokens see of the tokens before them. `full`: all, by softmax attention. `window`: the last ones, by
# softmax attention. `linear`: a memory of fixed size. `dense`: as full, in a model whose other blocks have experts.
Kind = Literal["full", "window", "linear", "dense"]


@dataclass(frozen=True)
class DeltaHeads:
    """Heads of a linear attention (models/gated_delta.py): `keys` for queries and keys, `values` for values.

    kernel: tokens that the short convolution before it covers.
    """

    keys: int
    values: int
    key_size: int
    value_size: int
    kernel: int

    @property
    def mixed_size(self) -> int:
        """Width of queries, keys and values together, which the short convolution runs over."""
        return 2 * self.keys * self.key_size + self.values_width

    @property
    def values_width(self) -> int:
        """Width of all values."""
        return self.values * self.value_size


@dataclass(frozen=True)
class Experts:
    """Sizes of a mixture of experts: how many there are, how many a token is routed to, and their inner widths."""

    count: int
    chosen: int
    inner: int
    shared_inner: int


@dataclass(frozen=True)
class Linear:
    """A matrix (out, into) that a block multiplies with. Linears with the same `reads` have the same input.

    experts: how many such matrices are stacked, of which a token uses a few; 0: a single one, used by every token.
    """

    out: int
    into: int
    reads: str
    bias: bool = False
    experts: int = 0

    @property
    def shape(self) -> Shape:
        """Shape of the weight."""
        return (self.experts, self.out, self.into) if self.experts else (self.out, self.into)


@dataclass(frozen=True)
class Block:
    """The tensors of one block by their names in it: what an adapter may be put on, and what never gets one.

    kept, kept_mlp: numbers per token that attention and MLP keep for the backward pass, besides the inputs of linears
    with an adapter.
    """

    linears: Mapping[str, Linear]
    others: Mapping[str, Shape]
    kept: int
    kept_mlp: int

    @property
    def matrix_parameters(self) -> int:
        """Entries of its linears."""
        return sum(math.prod(linear.shape) for linear in self.linears.values())

    @property
    def vector_parameters(self) -> int:
        """Entries of all else."""
        biases = sum(linear.out for linear in self.linears.values() if linear.bias)
        return biases + sum(math.prod(shape) for shape in self.others.values())

    def tensors(self) -> dict[str, Shape]:
        """Every tensor of the block with its shape; `input_layernorm.weight`, `self_attn.q_proj.bias`."""
        found = dict(self.others)
        for name, linear in self.linears.items():
            found[f"{name}.weight"] = linear.shape
            if linear.bias:
                found[f"{name}.bias"] = (linear.out,)
        return found


@dataclass(frozen=True)
class Architecture:
    """A decoder that mlx-lm runs, and that we convert, plan, train and run.

    model_type: mlx-lm's name for it, and config.json's in a folder that we write for MLX. class_name: transformers'
    class. gguf: llama.cpp's name, None where we write no GGUF. text_type: transformers' name for the text model alone,
    where it is released as a part of a multimodal model. wrappers: names of such multimodal models.

    block: gives the tensors of a block. kinds: gives the kind of every block of a configuration, in order. delta_heads:
    gives the heads of its linear attention. experts: gives the sizes of its experts. layout, activation: how
    models/backbone.py runs a block. scaled_embedding: embeddings are multiplied by the square root of their width.

    defaults: what transformers assumes where a configuration lacks a key. settle: writes out what a loader would guess
    in a configuration, and refuses by name what mlx-lm computes otherwise.

    prefix: what tensor names in a checkpoint begin with. mlx_blocks: where mlx-lm's model has its blocks. embedding,
    head: names of these tensors in a checkpoint. final_norm: name of the module between the blocks and the head.
    gguf_names: ours by llama.cpp's names of a block's modules; gguf_tensors: the same for single tensors. gguf_refuses:
    what of a configuration llama.cpp computes in another way, in words that go before "not written to GGUF"; None where
    there is nothing. mlx_prefix: what mlx-lm puts before a checkpoint's names. mlx_one_higher, gguf_one_higher: endings
    of the names of norms that mlx-lm, or llama.cpp, stores as 1 + w.

    always_own_head: mlx-lm's model has a head of its own whatever the configuration says. never_adapted: linears of a
    block that stay as they are, such as a router. kept_dtypes: tensors of a block that keep their own type when weights
    are cast, as mlx-lm keeps it.
    """

    model_type: str
    class_name: str
    gguf: str | None
    block: Callable[[ModelShape, Kind], Block]
    gguf_names: Mapping[str, str]
    layout: Layout = "pre_norm"
    activation: Activation = "silu"
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
    text_type: str | None = None
    wrappers: tuple[str, ...] = ()
    scaled_embedding: bool = False
    kinds: Callable[[Mapping[str, Any]], tuple[Kind, ...]] | None = None
    delta_heads: Callable[[Mapping[str, Any]], DeltaHeads] | None = None
    experts: Callable[[Mapping[str, Any]], Experts] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    settle: Callable[[dict[str, Any], str], None] | None = None
    never_adapted: tuple[str, ...] = ()
    kept_dtypes: tuple[str, ...] = ()
    gguf_tensors: Mapping[str, str] = field(default_factory=dict)
    gguf_refuses: Callable[[Mapping[str, Any]], str | None] | None = None
    gguf_one_higher: tuple[str, ...] = ()
    mlx_prefix: str = ""
    mlx_one_higher: tuple[str, ...] = ()

    @property
    def gguf_top(self) -> dict[str, str]:
        """llama.cpp's names of the modules outside the blocks, and ours."""
        embedding, head = self.embedding.removesuffix(".weight"), self.head.removesuffix(".weight")
        return {"token_embd": embedding, "output_norm": self.final_norm, "output": head}
