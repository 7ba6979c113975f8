"""Benchmarks of the text filter and of generation."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from mlx_loopai.data.samples.corpus import held_out_texts
from mlx_loopai.generation.engine import SamplingOptions, generate_batch
from mlx_loopai.models.load import load_model
from mlx_loopai.text.filter import clean


def test_filter(benchmark: BenchmarkFixture) -> None:
    text = "\n".join(message.content for record in held_out_texts() for message in record.messages)
    benchmark(clean, text)


@pytest.mark.parametrize("batch", [1, 8])
def test_greedy_answers(benchmark: BenchmarkFixture, nano: Path, batch: int) -> None:
    loaded = load_model(str(nano), "fp32")
    options = SamplingOptions(temperature=0.0, max_tokens=32)
    prompts = [[3 + row, 40, 50, 60] for row in range(batch)]
    benchmark.pedantic(generate_batch, (loaded, prompts, options), rounds=5, warmup_rounds=1)
