from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_loopai.config import RunConfig
from mlx_loopai.memory import guard
from mlx_loopai.memory.guard import MemoryWatch, Pressure, Reading, guarded, linux_pressure, read_memory, wired_bytes
from mlx_loopai.memory.machine import named_machine, this_machine
from mlx_loopai.memory.plan import plan
from mlx_loopai.units import GIB, MIB


def watch(*readings: Reading, cache_bytes: int = GIB) -> tuple[MemoryWatch, list[int]]:
    """A watch with a budget of 8 GiB over a scripted machine, and the cache limits that it sets."""
    limits: list[int] = []
    script = iter(readings)
    return MemoryWatch(8 * GIB, cache_bytes, read=lambda: next(script), set_cache_limit=limits.append), limits


def test_within_budget_nothing_happens() -> None:
    seen, limits = watch(Reading(4 * GIB, GIB, 2 * GIB))
    assert seen.poll() == "ok"
    assert limits == []
    assert seen.reason == ""


def test_over_budget_halves_the_cache() -> None:
    over = Reading(7 * GIB, 2 * GIB, 2 * GIB)
    seen, limits = watch(over, over)
    assert [seen.poll(), seen.poll()] == ["shrink", "shrink"]
    assert limits == [GIB // 2, GIB // 4]
    assert "9.0 GiB used (2.0 GiB of it cache) of a budget of 8.0 GiB" in seen.reason


def test_a_cache_that_cannot_shrink_is_no_reason_to_stop() -> None:
    seen, limits = watch(Reading(8 * GIB, GIB, 0), cache_bytes=32 * MIB)
    assert seen.poll() == "ok"
    assert limits == []


def test_far_over_budget_stops() -> None:
    seen, _ = watch(Reading(10 * GIB, 0, 0))
    assert seen.poll() == "stop"


def test_the_whole_process_counts() -> None:
    seen, _ = watch(Reading(GIB, 0, 10 * GIB))
    assert seen.poll() == "stop"


@pytest.mark.parametrize(
    ("pressure", "verdict"), [(Pressure.NORMAL, "ok"), (Pressure.WARN, "shrink"), (Pressure.CRITICAL, "stop")]
)
def test_pressure_decides(pressure: Pressure, verdict: str) -> None:
    seen, _ = watch(Reading(GIB, 0, 0, pressure))
    assert seen.poll() == verdict
    assert pressure is Pressure.NORMAL or pressure.name.lower() in seen.reason


def test_linux_pressure() -> None:
    levels = [linux_pressure(share * GIB // 100, GIB) for share in (50, 4, 1)]
    assert levels == [Pressure.NORMAL, Pressure.WARN, Pressure.CRITICAL]
    assert linux_pressure(0, 0) is Pressure.NORMAL


def test_this_process_can_be_read() -> None:
    now = read_memory()
    assert now.resident_bytes > 10 * MIB
    assert now.used_bytes >= now.resident_bytes


def test_limits_are_restored_even_after_an_error(qwen25) -> None:
    found = plan(qwen25("0.5B"), RunConfig(), this_machine())
    before = mx.set_cache_limit(48 * MIB)
    try:
        with pytest.raises(ZeroDivisionError), guarded(found):
            assert mx.set_cache_limit(found.terms["cache"]) == found.terms["cache"]
            raise ZeroDivisionError
        assert mx.set_cache_limit(before) == 48 * MIB
    finally:
        mx.set_cache_limit(before)


def test_wired_memory_is_what_a_run_always_needs(qwen25) -> None:
    machine = named_machine("m4-16gb")
    found = plan(qwen25("3B"), RunConfig(), machine)
    assert found.terms["weights"] < wired_bytes(found) <= 0.85 * machine.working_set_bytes
    assert wired_bytes(plan(qwen25("0.5B"), RunConfig(), this_machine())) == 0 or mx.metal.is_available()


def test_wired_limit_is_set_on_metal_and_restored(qwen25, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan(qwen25("3B"), RunConfig(), named_machine("m4-16gb"))
    limits: list[int] = []

    def set_wired_limit(size: int) -> int:
        limits.append(size)
        return 7

    monkeypatch.setattr(guard.mx, "set_wired_limit", set_wired_limit)
    with guarded(found):
        assert limits == [wired_bytes(found)]
    assert limits == [wired_bytes(found), 7]
