"""Predicts memory and speed of a step of mlx-lm's own trainer on a Mac, by constants fitted to published runs.

This project has measured nothing on a Mac. `tools/mac_plan.py` fits the constants to what others published, and
docs/memory.md says how many runs that were, and how well sources that were held out are predicted. Pure: no mlx.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from mlx_loopai.models.shape import ModelShape, Quantization

CONSTANTS = Path(__file__).with_name("published.json")
Attention = Literal["quadratic", "linear"]
# One group of 64 weights has a 16-bit scale and offset (mlx-lm's default).
GROUP_SIZE = 64
HALF = 2
# Since this MLX the backward pass of attention under a causal mask keeps no scores on Metal.
_LINEAR_ATTENTION_SINCE = (0, 32, 4)


@dataclass(frozen=True)
class TrainerRun:
    """A LoRA run of mlx-lm's trainer: what decides its memory and its speed.

    bits: of a stored weight, 16 for bf16 and fp16. batch: rows of a micro-batch. longest: padded tokens of its longest
    row. layers: how many of the last blocks have adapters. lora_parameters: trained numbers. attention: `quadratic` for
    the backward pass of MLX before 0.32.4, which keeps all scores of a block. fused_loss: the logits are not kept.
    """

    shape: ModelShape
    bits: int
    batch: int
    longest: int
    layers: int
    lora_parameters: int
    checkpointing: bool
    attention: Attention = "linear"
    fused_loss: bool = False

    @property
    def tokens(self) -> int:
        """Padded tokens of a micro-batch."""
        return self.batch * self.longest


@dataclass(frozen=True)
class PublishedConstants:
    """Constants of the predictions, and how well they fit.

    process_bytes: alive besides all that is counted. lora: bytes per trained number. loss, fused_loss: bytes per logit
    of either kind of loss. block, kept: multiples of the tensors that a block keeps for its backward pass, alive while
    that pass runs, and kept without checkpointing. scores: bytes per score of quadratic attention. utilisation: share
    of a chip's peak that training reaches. step_s: seconds that a step takes apart from its tokens. spread: largest
    over smallest rate of the range that holds 80 % of them. decoding: share of the memory's bandwidth that generation
    reaches. token_s: seconds that a generated token takes besides. runs, sources: how many were fitted. median_error:
    relative error of the peak for sources held out.
    """

    process_bytes: float
    lora: float
    loss: float
    fused_loss: float
    block: float
    kept: float
    scores: float
    utilisation: float
    step_s: float
    spread: float
    decoding: float = 0.72
    token_s: float = 0.001
    runs: int = 0
    sources: int = 0
    median_error: float = 0.0


@cache
def published() -> PublishedConstants:
    """The committed constants."""
    return PublishedConstants(**json.loads(CONSTANTS.read_text(encoding="utf-8")))


def calibrated_on() -> str:
    """Where predictions for Metal come from, in words."""
    found = published()
    return f"Metal, from {found.runs} published runs of mlx-lm: median error {found.median_error:.1%}"


def attention_of(mlx_version: str) -> Attention:
    """The kind of backward pass that attention has on Metal in an MLX version such as `0.32.4`."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", mlx_version)[:3])
    return "linear" if numbers >= _LINEAR_ATTENTION_SINCE else "quadratic"


def block_bytes(shape: ModelShape, token_bytes: int) -> int:
    """Bytes that a block keeps for its backward pass. token_bytes: tokens times bytes of a number."""
    return token_bytes * _kept_numbers(shape)


# Cached: a fit asks for the same shapes thousands of times.
@cache
def stored_weight_bytes(shape: ModelShape, bits: int) -> int:
    """Bytes of a checkpoint whose matrices have `bits` (16: half precision) a weight; norms and biases are 16-bit."""
    each = HALF * 8.0 if bits >= 16 else Quantization(bits, GROUP_SIZE).bits_per_weight
    return int(shape.matrix_parameters * each / 8) + HALF * shape.vector_parameters


def peak_bytes(run: TrainerRun, constants: PublishedConstants) -> int:
    """What mlx-lm prints as `Peak mem`, in bytes (its GB are 10^9).

    Weights, adapter with its gradient and moments, the inputs of checkpointed blocks or all that blocks keep, and the
    largest of three moments: the loss over all logits, the backward pass of a block, its attention's scores.
    """
    shape = run.shape
    resting = stored_weight_bytes(shape, run.bits) + constants.process_bytes + constants.lora * run.lora_parameters
    block = block_bytes(shape, run.tokens * HALF)
    waiting = run.tokens * HALF * shape.hidden_size if run.checkpointing else constants.kept * block
    loss = (constants.fused_loss if run.fused_loss else constants.loss) * run.tokens * shape.vocab_size
    scores = 0.0
    if run.attention == "quadratic":
        scores = scores_bytes(shape, run.batch, run.longest, constants)
    return int(resting + run.layers * waiting + max(loss, constants.block * block, scores))


def scores_bytes(shape: ModelShape, rows: int, width: int, constants: PublishedConstants) -> float:
    """Bytes that the backward pass of quadratic attention needs for `rows` rows of `width`, one block at a time."""
    return constants.scores * rows * shape.n_heads * width**2


def step_seconds(run: TrainerRun, teraflops: float, constants: PublishedConstants) -> float:
    """Seconds of one optimizer step on a chip of that 16-bit peak."""
    return constants.step_s + step_operations(run) / (constants.utilisation * teraflops * 1e12)


def step_operations(run: TrainerRun) -> float:
    """Floating-point operations of a step: two per weight and token, and attention's.

    They are those of the forward pass, of the backward pass through the adapted blocks and the head, and of the
    checkpointed blocks' second forward pass. The embedding is a look-up and costs none.
    """
    shape = run.shape
    in_blocks = sum(block.matrix_parameters for block in shape.blocks)
    head = shape.vocab_size * shape.hidden_size
    forward = in_blocks + head
    adapted = sum(block.matrix_parameters for block in shape.blocks[shape.n_layers - run.layers :])
    backward = adapted * (2 if run.checkpointing else 1) + head
    # Scores and their product with the values, over half of the positions each.
    attention = run.longest * shape.attention_size * (shape.n_layers + run.layers * (3 if run.checkpointing else 2))
    return 2.0 * run.tokens * (forward + backward + attention)


def _kept_numbers(shape: ModelShape) -> int:
    """Numbers a token that a block keeps for its backward pass (memory/sizes.py counts them one by one)."""
    return 7 * shape.hidden_size + 2 * shape.kv_size + 3 * shape.intermediate_size
