"""The model of mlx-lm's step on a Mac: its terms, and that the committed constants are whole."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.memory.published import (
    PublishedConstants,
    TrainerRun,
    peak_bytes,
    published,
    step_seconds,
    stored_weight_bytes,
)
from mlx_loopai.models.known_shapes import known_config
from mlx_loopai.models.shape import ModelShape

SHAPE = ModelShape.from_config(known_config("Qwen2.5-1.5B-shape") or {})
RUN = TrainerRun(shape=SHAPE, bits=4, batch=2, longest=512, layers=16, lora_parameters=5_276_000, checkpointing=True)
CONSTANTS = PublishedConstants(
    process_bytes=5e8, lora=20.0, loss=8.0, fused_loss=2.0, block=5.0, kept=2.0, scores=9.0, utilisation=0.5,
    step_s=0.1, spread=1.5,
)  # fmt: skip


def test_the_terms_add_up_by_hand() -> None:
    tokens, hidden = 1024, 1536
    numbers = 7 * hidden + 2 * 256 + 3 * 8960
    resting = stored_weight_bytes(SHAPE, 4) + 5e8 + 20 * 5_276_000
    loss = 8.0 * tokens * 151936
    assert peak_bytes(RUN, CONSTANTS) == int(resting + 16 * tokens * 2 * hidden + loss)
    fused = peak_bytes(replace(RUN, fused_loss=True), CONSTANTS)
    assert fused == int(resting + 16 * tokens * 2 * hidden + max(2.0 * tokens * 151936, 5.0 * tokens * 2 * numbers))
    kept = peak_bytes(replace(RUN, checkpointing=False), CONSTANTS)
    assert kept == int(resting + 16 * 2.0 * tokens * 2 * numbers + loss)


def test_weights_count_scales_and_half_precision() -> None:
    assert stored_weight_bytes(SHAPE, 16) == 2 * SHAPE.parameters
    assert stored_weight_bytes(SHAPE, 4) == int(SHAPE.matrix_parameters * 4.5 / 8) + 2 * SHAPE.vector_parameters


def test_quadratic_attention_takes_over_for_long_rows_only() -> None:
    short, long = (replace(RUN, batch=1, longest=n) for n in (512, 8192))
    assert peak_bytes(replace(short, attention="quadratic"), CONSTANTS) == peak_bytes(short, CONSTANTS)
    scores = 9.0 * 12 * 8192**2
    assert peak_bytes(replace(long, attention="quadratic", fused_loss=True), CONSTANTS) >= scores


@given(st.integers(1, 8), st.integers(32, 8192), st.integers(1, 28), st.booleans())
def test_more_tokens_or_layers_never_need_less(batch: int, longest: int, layers: int, checkpointing: bool) -> None:
    run = replace(RUN, batch=batch, longest=longest, layers=layers, checkpointing=checkpointing)
    for larger in (replace(run, batch=batch + 1), replace(run, longest=longest + 32)):
        assert peak_bytes(larger, published()) > peak_bytes(run, published())
        assert step_seconds(larger, 10.0, published()) > step_seconds(run, 10.0, published())
    assert peak_bytes(replace(run, layers=layers + 1), published()) > peak_bytes(run, published())


def test_a_chip_of_twice_the_peak_halves_what_depends_on_tokens() -> None:
    once, twice = (step_seconds(RUN, peak, CONSTANTS) - 0.1 for peak in (5.0, 10.0))
    assert once == pytest.approx(2 * twice)


def test_the_committed_constants_are_whole() -> None:
    constants = published()
    assert all(getattr(constants, field.name) > 0 for field in fields(constants))
    assert constants.median_error <= 0.12
    assert constants.sources >= 8
