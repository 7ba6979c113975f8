"""Mistral: Llama without biases. Its window is as long as the text that fits (models/configuration.py)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mlx_loopai.models.architectures.architecture import Block, Kind
from mlx_loopai.models.architectures.llama import LLAMA, attention, dense_block, gated_mlp, two_norms

if TYPE_CHECKING:
    from mlx_loopai.models.shape import ModelShape


def _block(shape: ModelShape, kind: Kind) -> Block:
    return dense_block(shape, attention(shape) | gated_mlp(shape), two_norms(shape))


# llama.cpp calls it llama as well; without its window it is the same model.
MISTRAL = replace(LLAMA, model_type="mistral", class_name="MistralForCausalLM", block=_block, max_positions=131_072)
