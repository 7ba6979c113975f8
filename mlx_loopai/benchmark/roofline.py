"""Compares a measured rate with the hardware's peak: a share above 1 means that the measurement is wrong."""

from __future__ import annotations

from mlx_loopai.errors import LoopaiError
from mlx_loopai.language import tr
from mlx_loopai.models.shape import ModelShape

_FLOAT32_BYTES = 4


def training_flops(shape: ModelShape, tokens: int, supervised_tokens: int) -> float:
    """A lower bound of the operations that LoRA training on these tokens needs.

    The frozen matrices cost 2 operations per entry forward and 2 backward; the head only where a token is supervised.
    Attention, adapters and recomputation are left out, so that a share of the peak is never overstated.
    """
    head = shape.vocab_size * shape.hidden_size
    return 4.0 * (_block_entries(shape) * tokens + head * supervised_tokens)


def decoding_bytes(shape: ModelShape) -> float:
    """A lower bound of the bytes that one decoding step reads: every matrix except the embedding, once, in fp32."""
    return float(_FLOAT32_BYTES * (_block_entries(shape) + shape.vocab_size * shape.hidden_size))


def share_of_peak(what: str, rate: float, peak: float) -> float:
    """`rate` / `peak`. Raises: LoopaiError above 1."""
    share = rate / peak
    if share > 1:
        raise LoopaiError(
            tr(
                "{what}: {share:.2f} of the hardware's peak, which cannot be; the clock or the chip in chips.yaml is "
                "wrong",
                what=what,
                share=share,
            )
        )
    return share


def _block_entries(shape: ModelShape) -> int:
    return sum(block.matrix_parameters for block in shape.blocks)
