"""Predictions against what MLX measures, and their arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.memory.predict import PYTHON_BYTES, MemoryPrediction, StepOptions, predict, weight_bytes
from mlx_loopai.units import GIB

from .measured_step import Case, measure

SMALL = Case(vocab=2000, hidden=128, inner=512, heads=4, kv_heads=2, layers=3, rows=4, width=64)
CASES = {
    "small": SMALL,
    "deep": replace(SMALL, layers=10),
    "wide inner": replace(SMALL, inner=2048),
    "wide hidden": replace(SMALL, hidden=384, heads=6),
    "no grouped queries": replace(SMALL, kv_heads=4),
    "long rows": replace(SMALL, rows=1, width=384),
    "many short rows": replace(SMALL, rows=16, width=16),
    "high rank": replace(SMALL, rank=64),
    "large vocabulary": replace(SMALL, vocab=20000, chunk_rows=128),
    "few supervised": replace(SMALL, vocab=20000, supervised=0.2),
    "last block only": replace(SMALL, layers=6, lora_layers=1),
    "attention only": replace(SMALL, targets=("q_proj", "v_proj")),
    "4-bit base": replace(SMALL, bits=4, rows=2),
    "half precision": replace(SMALL, precision="bf16", layers=2),
}


def prediction(case: Case) -> MemoryPrediction:
    options = StepOptions(
        base_precision=case.precision,
        compute=case.precision,
        lora_rank=case.rank,
        lora_targets=case.targets,
        lora_layers=case.lora_layers,
        micro_tokens=case.rows * case.width,
        width=case.width,
        supervised_share=case.supervised,
        checkpointing=case.checkpointing,
        chunk_rows=case.chunk_rows,
        accumulates=False,
    )
    return predict(case.shape(), options, "cpu")


# Two cases always, the rest with `-m slow`: on a busy CPU a case takes seconds.
NAMES = [
    name if name in ("small", "large vocabulary") else pytest.param(name, marks=pytest.mark.slow) for name in CASES
]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("name", NAMES)
def test_peak_is_predicted(name: str, checkpointing: bool) -> None:
    case = replace(CASES[name], checkpointing=checkpointing)
    at_rest, peak = measure(case)
    terms = prediction(case).terms
    resting = sum(terms[term] for term in ("weights", "adapter", "optimizer"))
    # Buffers are whole pages and carry a few small tables.
    assert resting == pytest.approx(at_rest, rel=0.05)
    ratio = prediction(case).peak_bytes / peak
    assert 0.90 <= ratio <= 1.25, f"{name}: predicted {ratio:.3f} of the measured {peak} bytes"


def test_the_loss_is_bounded_by_its_chunks() -> None:
    """32 chunks of a large vocabulary: the logits as a whole would be 79 MiB."""
    case = replace(SMALL, layers=1, inner=128, vocab=40000, rows=8, chunk_rows=16, checkpointing=True)
    _, peak = measure(case)
    assert 0.90 <= prediction(case).peak_bytes / peak <= 1.25


def test_terms_add_up_and_leave_nothing_out(qwen25) -> None:
    found = predict(qwen25("0.5B"), StepOptions(penalty="kronecker"), "cpu")
    assert list(found.terms) == [
        "weights", "adapter", "gradients", "optimizer", "penalty", "activations", "attention", "loss", "cache", "python",
    ]  # fmt: skip
    assert found.total_bytes == sum(found.terms.values())
    assert found.peak_bytes == found.total_bytes - found.terms["cache"] - PYTHON_BYTES
    assert all(isinstance(size, int) and size > 0 for size in found.terms.values())


@pytest.mark.parametrize(
    ("size", "bf16_gib", "four_bit_gib"), [("0.5B", 0.92, 0.26), ("3B", 5.75, 1.62), ("7B", 14.19, 3.99)]
)
def test_weights(qwen25, size: str, bf16_gib: float, four_bit_gib: float) -> None:
    assert weight_bytes(qwen25(size), "bf16") / GIB == pytest.approx(bf16_gib, abs=0.006)
    assert weight_bytes(qwen25(size), "4-bit") / GIB == pytest.approx(four_bit_gib, abs=0.006)


def test_attention_is_memory_linear_on_metal_only(qwen25) -> None:
    long, short = StepOptions(width=4096, micro_tokens=4096), StepOptions(width=1024, micro_tokens=4096)
    on_cpu = [predict(qwen25("0.5B"), options, "cpu").terms["attention"] for options in (long, short)]
    on_metal = [predict(qwen25("0.5B"), options, "metal").terms["attention"] for options in (long, short)]
    assert on_cpu[0] > 3 * on_cpu[1]
    assert on_metal[0] == on_metal[1] < on_cpu[1] / 100


def test_metal_is_said_to_be_unmeasured(qwen25) -> None:
    assert "not measured" in predict(qwen25("3B"), StepOptions(), "metal").calibrated_on
    assert "not measured" not in predict(qwen25("3B"), StepOptions(), "cpu").calibrated_on


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (StepOptions(micro_tokens=1024, width=1024), StepOptions(micro_tokens=2048, width=1024)),
        (StepOptions(checkpointing=True), StepOptions()),
        (StepOptions(checkpointing=True, chunk_rows=64), StepOptions(checkpointing=True, chunk_rows=2048)),
        (StepOptions(lora_layers=4), StepOptions()),
        (StepOptions(lora_targets=("q_proj",)), StepOptions()),
        (StepOptions(base_precision="4-bit", compute="bf16"), StepOptions(base_precision="bf16", compute="bf16")),
        (StepOptions(), StepOptions(penalty="kronecker")),
        (StepOptions(), StepOptions(lora_rank=64)),
    ],
)
def test_what_needs_more(qwen25, less: StepOptions, more: StepOptions) -> None:
    shape = qwen25("0.5B")
    assert predict(shape, less, "cpu").total_bytes < predict(shape, more, "cpu").total_bytes


def test_unknown_precision_names_the_known(qwen25) -> None:
    with pytest.raises(InputError, match=r"fp8.*known.*4-bit"):
        predict(qwen25("0.5B"), StepOptions(base_precision="fp8"), "cpu")
