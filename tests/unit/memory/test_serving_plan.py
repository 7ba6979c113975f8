"""What a server needs at most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mlx_loopai.memory.machine import named_machine
from mlx_loopai.memory.predict import PYTHON_BYTES
from mlx_loopai.memory.serving import Served, plan_serving
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.units import GIB, MIB

SERVED = Served(
    weight_bytes=GIB, compute="bf16", rows=8, context_tokens=4096, answer_tokens=1024, cache_bytes=512 * MIB
)


def test_every_conversation_may_fill_its_context(qwen25: Callable[[str], ModelShape]) -> None:
    shape, machine = qwen25("0.5B"), named_machine("m4-16gb")
    found = plan_serving(shape, machine, SERVED)
    # Keys and values of 24 blocks with two heads of 64, in two bytes; twice, since rows that join are copied.
    caches = 2 * 8 * 4096 * 24 * 2 * (2 * 64) * 2
    assert found.terms["weights"] == GIB
    assert found.terms["prompt_cache"] == 512 * MIB
    assert caches < found.terms["conversations"] < 2 * caches + 2 * GIB
    assert found.terms["python"] == PYTHON_BYTES
    assert found.total_bytes == sum(found.terms.values())
    assert found.fits
    longer = plan_serving(shape, machine, replace(SERVED, context_tokens=32768, rows=32))
    assert not longer.fits
    assert longer.terms["conversations"] > 32 * (caches // 8)


def test_an_answer_leaves_room_for_a_prompt(qwen25: Callable[[str], ModelShape]) -> None:
    shape, machine = qwen25("0.5B"), named_machine("m4-16gb")
    short = replace(SERVED, context_tokens=1024, answer_tokens=1024)
    assert plan_serving(shape, machine, short).terms["conversations"] > 0
