"""What a server's answers leave in memory: no more than its plan and its prompt cache count."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import pytest

from mlx_loopai.config import GenerationOptions
from mlx_loopai.generation.lineup import Lineup, open_lineup
from mlx_loopai.memory.machine import this_machine
from mlx_loopai.memory.serving import Served, plan_serving
from mlx_loopai.serving.shapes import ApiError, Report
from mlx_loopai.serving.writer import Event, Task, Writer
from mlx_loopai.units import MIB

ROWS, PROMPT_TOKENS, ANSWER_TOKENS = 12, 150, 40
CACHE_BYTES = 256 * MIB


@dataclass(frozen=True)
class Seen:
    """MLX's bytes above those of before: the most at once, and at the end; and what the prompt cache says it holds."""

    most: int
    left: int
    counted: int


@pytest.fixture(scope="module")
def lineup() -> Lineup:
    return open_lineup("nano", "nano", [])


def answered(lineup: Lineup, turns: Sequence[Sequence[Sequence[int]]], cache_bytes: int) -> Seen:
    """Write answers to the prompts of each turn, all prompts of a turn at once; the answers end at different steps."""
    failures: list[str] = []
    writer = Writer(lineup, ROWS, cache_bytes, failures.append)
    gc.collect()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    writer.start()
    for prompts in turns:
        heard: list[list[Event]] = [[] for _ in prompts]
        for place, prompt in enumerate(prompts):
            writer.submit(_task(prompt, ANSWER_TOKENS - 3 * place, heard[place].append))
        _wait(heard)
    counted = writer._recent.n_bytes
    writer.close()
    assert not failures
    return Seen(mx.get_peak_memory() - before, mx.get_active_memory() - before, counted)


def _task(prompt: Sequence[int], max_tokens: int, deliver: Callable[[Event], None]) -> Task:
    options = GenerationOptions(temperature=0, max_tokens=max_tokens, scripts="off", filter=False, repetition_guard=0)
    return Task(
        model="nano",
        prompt=tuple(prompt),
        options=options,
        goes_on=False,
        grammar=None,
        deadline=time.monotonic() + 300,
        deliver=deliver,
    )


def _wait(heard: Sequence[Sequence[Event]]) -> None:
    end = time.monotonic() + 300
    while time.monotonic() < end and not all(one and isinstance(one[-1], Report | ApiError) for one in heard):
        time.sleep(0.01)
    assert all(isinstance(one[-1], Report) for one in heard)


def _chats(seed: int, more: int = 0) -> list[list[int]]:
    draws = np.random.default_rng(seed)
    chats = [draws.integers(300, 4000, PROMPT_TOKENS).tolist() for _ in range(ROWS)]
    return [chat + draws.integers(300, 4000, more).tolist() for chat in chats]


def test_ended_answers_hold_what_the_prompt_cache_counts(lineup: Lineup) -> None:
    seen = answered(lineup, [_chats(1)], CACHE_BYTES)
    assert seen.counted > ROWS * PROMPT_TOKENS
    assert seen.left < 1.1 * seen.counted + MIB


@pytest.mark.parametrize("cache_bytes", [0, 2 * MIB, CACHE_BYTES])
def test_answers_stay_within_the_plan(lineup: Lineup, cache_bytes: int) -> None:
    seen = answered(lineup, [_chats(1), _chats(1, 20)], cache_bytes)
    served = Served(
        weight_bytes=lineup.weight_bytes,
        compute="fp32",
        rows=ROWS,
        context_tokens=PROMPT_TOKENS + 20 + ANSWER_TOKENS,
        answer_tokens=ANSWER_TOKENS,
        cache_bytes=cache_bytes,
    )
    terms = plan_serving(lineup.loaded.shape, this_machine(), served).terms
    assert seen.most < terms["conversations"] + terms["prompt_cache"]
    # Nor is it counted far too high: the caches' part is most of it.
    assert seen.most > 0.2 * terms["conversations"]
