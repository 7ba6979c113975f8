"""Predictions against a measured step, and their arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_loopai.config import PENALTIES, Optimizer, PenaltyOptions, ReplayOptions
from mlx_loopai.errors import InputError
from mlx_loopai.guards.terms import memory_terms
from mlx_loopai.memory.guard_terms import GuardTerms
from mlx_loopai.memory.phases import PhaseSizes
from mlx_loopai.memory.predict import PYTHON_BYTES, Correction, predict, resting_bytes, weight_bytes
from mlx_loopai.memory.published import block_bytes, published
from mlx_loopai.memory.sizes import Backend, RehearsedBatch, StepOptions
from mlx_loopai.models.pass_sizes import LONGEST_KEPT
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.training.step_memory import measure_step
from mlx_loopai.units import GIB

from .conftest import QWEN25, qwen25_config

TINY = {
    "model_type": "qwen2",
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 2000,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_peak_is_predicted(checkpointing: bool) -> None:
    """One small step here; docs/memory.md holds the many, each in a process of its own."""
    options = StepOptions(width=128, micro_tokens=512, chunk_rows=64, checkpointing=checkpointing, accumulates=False)
    measured = measure_step(TINY, options)
    terms = predict(ModelShape.from_config(TINY), options, "cpu").terms
    assert terms["weights"] + 3 * terms["adapter"] == pytest.approx(measured.at_rest_bytes, rel=0.02)
    predicted = predict(ModelShape.from_config(TINY), options, "cpu").peak_bytes
    assert 0.85 <= predicted / measured.peak_bytes <= 1.25


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_the_peak_of_long_rows_grows_with_their_length(checkpointing: bool) -> None:
    """And not with its square: attention keeps no probabilities of them."""
    shape, a_token = ModelShape.from_config(TINY), []
    for tokens in (2 * LONGEST_KEPT, 4 * LONGEST_KEPT):
        options = StepOptions(width=tokens, micro_tokens=tokens, checkpointing=checkpointing, accumulates=False)
        measured = measure_step(TINY, options)
        assert 0.85 <= predict(shape, options, "cpu").peak_bytes / measured.peak_bytes <= 1.25
        a_token.append((measured.peak_bytes - measured.at_rest_bytes) / tokens)
    assert a_token[1] == pytest.approx(a_token[0], rel=0.15)


@pytest.mark.parametrize("form", [{}, {"dora": True}, {"whole": True}], ids=["lora", "dora", "whole"])
@pytest.mark.parametrize("optimizer", get_args(Optimizer))
def test_rest_of_every_optimizer_is_what_it_keeps(optimizer: str, form: dict[str, bool]) -> None:
    options = StepOptions(optimizer=optimizer, **form, width=16, micro_tokens=32, chunk_rows=32)
    measured = measure_step(TINY, options)
    expected = resting_bytes(ModelShape.from_config(TINY), options)
    # Step counters and learning rates are a few bytes.
    assert 0 <= measured.at_rest_bytes - expected < 0.001 * expected


@pytest.mark.parametrize("moments", ["fp32", "8-bit"])
@pytest.mark.parametrize("accumulates", [False, True])
def test_the_peak_of_a_whole_models_step_is_predicted(moments: str, accumulates: bool) -> None:
    """The largest moment is the optimizer's update, or the sum of two micro-batches' gradients."""
    options = StepOptions(
        whole=True, moments=moments, width=64, micro_tokens=64, chunk_rows=64, accumulates=accumulates
    )
    measured, shape = measure_step(TINY, options), ModelShape.from_config(TINY)
    assert resting_bytes(shape, options) == pytest.approx(measured.at_rest_bytes, rel=0.01)
    assert 0.85 <= predict(shape, options, "cpu").peak_bytes / measured.peak_bytes <= 1.15


def test_an_unknown_optimizer_is_named() -> None:
    with pytest.raises(InputError, match="'nope'"):
        predict(ModelShape.from_config(TINY), StepOptions(optimizer="nope"), "cpu")


def test_terms_add_up_and_leave_nothing_out(qwen25) -> None:
    found = predict(qwen25("0.5B"), StepOptions(guard=GuardTerms(adapters=1, vectors=1)), "cpu")
    assert list(found.terms) == [
        "runtime", "weights", "adapter", "gradients", "optimizer", "penalty", "activations", "attention", "loss", "pictures", "phases", "cache", "python",
    ]  # fmt: skip
    assert found.total_bytes == sum(found.terms.values())
    assert found.peak_bytes == found.total_bytes - found.terms["cache"] - PYTHON_BYTES
    assert found.terms["phases"] == 0
    assert all(
        isinstance(size, int) and size > 0
        for name, size in found.terms.items()
        if name not in ("phases", "runtime", "pictures")
    )


@pytest.mark.parametrize(
    ("size", "bf16_gib", "four_bit_gib"), [("0.5B", 0.92, 0.26), ("3B", 5.75, 1.62), ("7B", 14.19, 3.99)]
)
def test_weights(qwen25, size: str, bf16_gib: float, four_bit_gib: float) -> None:
    assert weight_bytes(qwen25(size), "bf16") / GIB == pytest.approx(bf16_gib, abs=0.006)
    assert weight_bytes(qwen25(size), "4-bit") / GIB == pytest.approx(four_bit_gib, abs=0.006)


def test_the_memory_of_attention_over_long_rows(qwen25) -> None:
    """It grows with the square of the length on CPUs in half precision, or in a window; everywhere else not."""

    def attention(shape: ModelShape, backend: Backend, compute: str, width: int) -> int:
        options = StepOptions(compute=compute, width=width, micro_tokens=4096)
        return predict(shape, options, backend).terms["attention"]

    def growth(shape: ModelShape, backend: Backend, compute: str) -> float:
        return attention(shape, backend, compute, 4096) / attention(shape, backend, compute, 1024)

    usual = qwen25("0.5B")
    windowed = replace(usual, kinds=("window",) * usual.n_layers)
    assert growth(usual, "cpu", "fp32") == growth(usual, "metal", "fp32") == growth(usual, "metal", "bf16") == 1
    assert growth(usual, "cpu", "bf16") > 3
    assert growth(windowed, "cpu", "fp32") > 3
    assert attention(usual, "metal", "fp32", 4096) < attention(usual, "cpu", "fp32", 4096) / 10


def test_a_prediction_says_where_its_constants_are_from(qwen25) -> None:
    assert "published runs of mlx-lm: median error" in predict(qwen25("3B"), StepOptions(), "metal").calibrated_on
    assert "published" not in predict(qwen25("3B"), StepOptions(), "cpu").calibrated_on


def test_a_mac_needs_at_least_what_published_runs_needed(qwen25) -> None:
    shape, options = qwen25("3B"), StepOptions(compute="bf16", base_precision="4-bit", checkpointing=True)
    found = predict(shape, options, "metal")
    assert found.terms["runtime"] == int(published().process_bytes)
    block = published().block * block_bytes(shape, 2 * options.micro_tokens)
    assert found.peak_bytes >= weight_bytes(shape, "4-bit") + published().process_bytes + block


def test_scores_of_a_quadratic_attention_take_over_for_long_rows(qwen25) -> None:
    shape = qwen25("0.5B")

    def peak(width: int, quadratic: bool) -> int:
        options = StepOptions(micro_tokens=width, width=width, checkpointing=True, quadratic_attention=quadratic)
        return predict(shape, options, "metal").peak_bytes

    assert peak(256, True) == peak(256, False)
    more = peak(16384, True) - peak(16384, False)
    assert 0 < more < published().scores * shape.n_heads * 16384**2


def test_rehearsed_rows_are_a_micro_batch_of_their_own(qwen25) -> None:
    shape, guard = qwen25("0.5B"), GuardTerms(diverges_on_answers=True)
    options = StepOptions(micro_tokens=2048, width=1024, guard=guard, rehearsed=RehearsedBatch(2, 256, 48))
    own = predict(shape, replace(options, rehearsed=None), "cpu")
    assert predict(shape, options, "cpu").terms == own.terms
    many = predict(shape, replace(options, rehearsed=RehearsedBatch(8, 256, 256)), "cpu")
    assert many.terms["penalty"] > 0
    assert many.peak_bytes > own.peak_bytes


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (StepOptions(micro_tokens=1024, width=1024), StepOptions(micro_tokens=2048, width=1024)),
        (StepOptions(checkpointing=True), StepOptions()),
        (StepOptions(width=64, chunk_rows=64), StepOptions(width=64, chunk_rows=2048)),
        (StepOptions(lora_layers=4), StepOptions()),
        (StepOptions(lora_targets=("q_proj",)), StepOptions()),
        (StepOptions(base_precision="4-bit", compute="bf16"), StepOptions(base_precision="bf16", compute="bf16")),
        (StepOptions(), StepOptions(guard=GuardTerms(adapters=1, vectors=1))),
        (StepOptions(), StepOptions(lora_rank=64)),
    ],
)
def test_what_needs_more(qwen25, less: StepOptions, more: StepOptions) -> None:
    shape = qwen25("0.5B")
    assert predict(shape, less, "cpu").total_bytes < predict(shape, more, "cpu").total_bytes


def test_unknown_precision_names_the_known(qwen25) -> None:
    with pytest.raises(InputError, match=r"fp8.*known.*2-bit"):
        predict(qwen25("0.5B"), StepOptions(base_precision="fp8"), "cpu")


def test_a_run_needs_what_its_largest_phase_needs(qwen25) -> None:
    options = StepOptions(guard=GuardTerms(adapters=1, vectors=1), checkpointing=True, micro_tokens=512, width=512)
    phases = PhaseSizes(longest_row=512, importance_tokens=4096, rehearsal_rows=32, answer_tokens=64)
    found = predict(qwen25("0.5B"), options, "cpu", phases)
    assert list(found.phases) == ["training", "loading", "rehearsal", "importance", "validation"]
    assert found.total_bytes == max(found.phases.values()) == found.phases["importance"]
    assert found.terms["phases"] == found.phases["importance"] - found.phases["training"]
    assert predict(qwen25("0.5B"), options, "cpu").total_bytes == found.phases["training"]


def test_a_correction_scales_what_comes_and_goes(qwen25) -> None:
    shape, options = qwen25("0.5B"), StepOptions()
    plain, corrected = (
        predict(shape, options, "metal"),
        predict(shape, options, "metal", correction=Correction(2, "a step")),
    )
    assert corrected.calibrated_on == "a step"
    for name in ("activations", "attention", "loss"):
        assert corrected.terms[name] == 2 * plain.terms[name]
    assert corrected.terms["weights"] == plain.terms["weights"]


def test_every_penalty_has_a_size(qwen25) -> None:
    for kind in PENALTIES:
        terms = memory_terms(PenaltyOptions(kind=kind, activations=8), ReplayOptions())
        options = StepOptions(guard=terms)
        assert (predict(qwen25("0.5B"), options, "cpu").terms["penalty"] > 0) is (kind != "none")


@settings(max_examples=60, deadline=None)
@given(
    size=st.sampled_from(sorted(QWEN25)),
    backend=st.sampled_from(["cpu", "metal"]),
    less=st.fixed_dictionaries(
        {"rows": st.integers(1, 16), "width": st.integers(1, 2048), "rank": st.integers(1, 128)}
    ),
    precision=st.sampled_from(["fp32", "bf16", "4-bit"]),
    others=st.fixed_dictionaries({"supervised_share": st.floats(0.05, 1), "checkpointing": st.booleans()}),
    more=st.sampled_from(["rows", "width", "rank"]),
)
def test_more_of_anything_never_needs_less(
    size: str,
    backend: str,
    less: dict[str, int],
    precision: str,
    others: dict[str, Any],
    more: str,
) -> None:
    shape = ModelShape.from_config(qwen25_config(size))

    def total(rows: int, width: int, rank: int) -> int:
        options = StepOptions(
            base_precision=precision,
            compute="fp32" if precision == "fp32" else "bf16",
            lora_rank=rank,
            micro_tokens=rows * width,
            width=width,
            **others,
        )
        return predict(shape, options, backend).total_bytes

    # Whole bytes are cut off a term at a time.
    assert total(**less) <= total(**{**less, more: less[more] + 1}) + len(predict(shape, StepOptions(), "cpu").terms)
