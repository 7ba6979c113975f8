"""The transformer below the head, run block by block: any block can be checkpointed without patching a class."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_loopai.models.architectures import Activation, Architecture, Layout
from mlx_loopai.models.decoder import Mask, architecture_in, causal_mask, embedded, final_norm
from mlx_loopai.models.exponentials import are_cheap, sigmoid, silu
from mlx_loopai.models.gated_delta import linear_attention
from mlx_loopai.models.lora import (
    all_joint,
    dropout_drawn_from,
    dropout_key,
    dropping_the_same,
    outputs_given,
    projected,
)
from mlx_loopai.models.micro_batch import opening_of
from mlx_loopai.models.shared_opening import OpeningKeys, SharedOpening, can_share
from mlx_loopai.models.updated_linear import UpdatedLinear
from mlx_loopai.models.vision.pictures import Pictures

Positions: TypeAlias = tuple[mx.array, mx.array]
# Of states (B, T, D), or of those that lie as `SharedOpening` says.
Places: TypeAlias = Positions | mx.array
Run = Callable[[mx.array], mx.array]
# The layers of a softmax attention that read its input.
_READERS = ("q_proj", "k_proj", "v_proj")


def hidden_states(
    model: nn.Module,
    ids: mx.array,
    checkpointing: bool = False,
    positions: Positions | None = None,
    pictures: Pictures | None = None,
    opening: int | None = None,
) -> mx.array:
    """Final normalised states (B, T, D) of token ids (B, T) under a causal mask, and of the pictures among them.

    With `positions` (rows (N,), columns (N,)) only those states are returned (N, D), and after its attention the last
    block computes nothing else. Rows are right-padded, so a plain causal mask keeps real tokens from seeing padding.
    With `checkpointing` each block is computed again in the backward pass: the same gradients, with one block's
    activations alive at a time. Without it only the cheap half of the MLP is computed again (`_mlp`).

    opening: with how many equal tokens all rows begin, 0 for rows that are to be computed whole; None: `opening_of` the
    ids, whose values must then be known. Where the model allows it, the states of an opening are computed once for all
    rows (models/shared_opening.py): the same result up to rounding.
    """
    architecture = architecture_in(model)
    if opening is None:
        opening = opening_of(np.array(ids)) if pictures is None else 0
    shared = None
    if opening and pictures is None and can_share(model, ids.shape[1]):
        shared = SharedOpening(rows=ids.shape[0], tokens=ids.shape[1], opening=opening)
        states = embedded(model, shared.packed(ids))[0]
    else:
        states = embedded(model, ids, None if pictures is None else partial(pictures.placed, model))
    places: Places | None = positions if shared is None or positions is None else shared.places(*positions)
    last = len(model.layers) - 1
    for index, block in enumerate(model.layers):
        way = _Way(
            architecture=architecture,
            mask=causal_mask(model, block, ids.shape[1]),
            places=places if index == last else None,
            lean=not checkpointing,
            shared=shared,
        )
        run = _runner(block, partial(_run_block, block, way))
        if pictures is not None:
            run = pictures.rotating(model, run)
        if checkpointing:
            run = nn.utils.checkpoint(block, run)
        states = run(states)
        if pictures is not None:
            states = pictures.added(states, index)
    states = final_norm(model)(states)
    return states if shared is None or positions is not None else shared.whole(states)


def block_states(model: nn.Module, block: nn.Module, states: mx.array) -> mx.array:
    """The output (B, T, D) of a block of `model` for states (B, T, D) under a causal mask, as in `hidden_states`."""
    mask = causal_mask(model, block, states.shape[1])
    return _run_block(block, _Way(architecture=architecture_in(model), mask=mask), states)


@dataclass(frozen=True, kw_only=True)
class _Way:
    """How a block is run. places: of the states that it gives; None: all. lean: see `_mlp`."""

    architecture: Architecture
    mask: Mask
    places: Places | None = None
    lean: bool = False
    shared: SharedOpening | None = None


def _run_block(block: nn.Module, way: _Way, states: mx.array) -> mx.array:
    places = way.places
    if way.architecture.layout == "parallel":  # GPT-NeoX's block decides itself whether attention and MLP are parallel
        found = block(states, way.mask, None)
        return found if places is None else found[places]
    attended = _attended(block, way, states)
    # After the attention a token no longer sees the others.
    return _fed(block, way.architecture, way.lean, attended if places is None else attended[places])


def _attended(block: nn.Module, way: _Way, states: mx.array) -> mx.array:
    layout = way.architecture.layout
    normed = states if layout == "post_norm" else block.input_layernorm(states)
    if "linear_attn" in block:
        found = linear_attention(block.linear_attn, normed)
    elif way.shared is not None:
        keys = OpeningKeys()
        opening, rows = (_attention(block.self_attn, way.mask, part, keys) for part in way.shared.apart(normed))
        found = way.shared.joined(opening, rows)
    else:
        found = _attention(block.self_attn, way.mask, normed)
    return _added(layout, states, found if layout == "pre_norm" else block.post_attention_layernorm(found))


def _attention(attention: nn.Module, mask: Mask, x: mx.array, keys: OpeningKeys | None = None) -> mx.array:
    readers = [attention.get(name) for name in _READERS]
    if not all_joint(readers):
        return attention(x, mask, keys)
    with outputs_given(readers, projected(readers, x)):
        return attention(x, mask, keys)


def _fed(block: nn.Module, architecture: Architecture, lean: bool, states: mx.array) -> mx.array:
    layout = architecture.layout
    if layout == "pre_norm":
        return states + _mlp(block.mlp, architecture.activation, lean, block.post_attention_layernorm(states))
    normed = states if layout == "post_norm" else block.pre_feedforward_layernorm(states)
    found = _mlp(block.mlp, architecture.activation, lean, normed)
    return _added(layout, states, block.post_feedforward_layernorm(found))


def _added(layout: Layout, states: mx.array, found: mx.array) -> mx.array:
    if layout != "sandwich":
        return states + found
    from mlx_lm.models.gemma3_text import clip_residual  # slow to import, and a plan needs none

    # Gemma's states can exceed what float16 holds.
    return clip_residual(states, found)


def _mlp(mlp: nn.Module, activation: Activation, lean: bool, x: mx.array) -> mx.array:
    """The gated MLP, or the experts.

    `lean`: the input of down_proj is not kept but computed again in the backward pass, its activation included. Where
    exponentials are slow, the sigmoid of SiLU is kept and only the products are computed again.
    """
    if "switch_mlp" in mlp:
        return mlp(x)
    gate, up = projected([mlp.gate_proj, mlp.up_proj], x)
    # When the block runs again, an observer would be gone and a disabled adapter would be on again.
    lean = lean and (not isinstance(mlp.down_proj, UpdatedLinear) or mlp.down_proj.is_plain)

    def project(*parts: mx.array) -> mx.array:
        return mlp.down_proj(math.prod(parts[1:], start=parts[0]))

    def project_activated(gate: mx.array, up: mx.array) -> mx.array:
        return mlp.down_proj((silu if activation == "silu" else nn.gelu_approx)(gate) * up)

    keeps_sigmoid = activation == "silu" and not are_cheap()
    parts, run = ((gate, sigmoid(gate), up), project) if keeps_sigmoid else ((gate, up), project_activated)
    if lean:
        run = nn.utils.checkpoint(mlp.down_proj, dropping_the_same(mlp.down_proj, run))
    return run(*parts)


def _runner(block: nn.Module, run: Run) -> Run:
    """`run` with the same dropout in `block` however often it runs."""
    key = dropout_key(block)

    def again(states: mx.array) -> mx.array:
        with dropout_drawn_from(block, key):
            return run(states)

    return again
