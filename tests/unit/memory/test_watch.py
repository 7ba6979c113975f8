from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_loopai.config import RunConfig
from mlx_loopai.memory import watch as guard
from mlx_loopai.memory.guard_terms import NO_GUARD
from mlx_loopai.memory.machine import named_machine, this_machine
from mlx_loopai.memory.plan import plan
from mlx_loopai.memory.watch import MemoryWatch, Pressure, Reading, guarded, linux_pressure, read_memory, wired_bytes
from mlx_loopai.units import GIB, MIB


class FakeMachine:
    """Reads as scripted, the last reading for ever, and remembers what it is told."""

    def __init__(self, *readings: Reading) -> None:
        self.readings = list(readings)
        self.limits: list[int] = []
        self.clears = 0

    def read(self) -> Reading:
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]

    def clear(self) -> None:
        self.clears += 1

    def watch(self, cache_bytes: int = GIB) -> MemoryWatch:
        """A watch over it with a budget of 8 GiB."""
        return MemoryWatch(8 * GIB, cache_bytes, self.read, self.limits.append, self.clear)


OVER = Reading(7 * GIB, 2 * GIB, 2 * GIB)


def test_within_budget_nothing_happens() -> None:
    machine = FakeMachine(Reading(4 * GIB, GIB, 2 * GIB))
    seen = machine.watch()
    assert [seen.poll() for _ in range(3)] == ["ok"] * 3
    assert (machine.limits, machine.clears, seen.micro_divisor, seen.reason) == ([], 0, 1, "")


def test_the_first_time_over_budget_only_warns() -> None:
    machine = FakeMachine(OVER)
    seen = machine.watch()
    assert seen.poll() == "warn"
    assert (machine.limits, machine.clears, seen.micro_divisor) == ([], 0, 1)
    assert "9.0 GiB used (2.0 GiB of it cache) of a budget of 8.0 GiB" in seen.reason


def test_then_cache_and_micro_batches_are_halved() -> None:
    machine = FakeMachine(OVER)
    seen = machine.watch()
    assert [seen.poll() for _ in range(3)] == ["warn", "shrink", "shrink"]
    assert machine.limits == [GIB // 2, GIB // 4]
    assert machine.clears == 2
    assert seen.micro_divisor == 4


def test_under_pressure_the_cache_is_not_walked() -> None:
    machine = FakeMachine(Reading(GIB, GIB, 0, Pressure.WARN))
    seen = machine.watch()
    assert [seen.poll(), seen.poll()] == ["warn", "shrink"]
    assert (machine.limits, machine.clears) == ([GIB // 2], 0)


def test_what_cannot_shrink_further_is_no_reason_to_stop() -> None:
    machine = FakeMachine(OVER)
    seen = machine.watch()
    verdicts = [seen.poll() for _ in range(20)]
    assert verdicts[-1] == "ok"
    assert machine.limits[-1] == 32 * MIB
    assert "stop" not in verdicts


def test_stages_of_a_machine_that_fills_up() -> None:
    machine = FakeMachine(Reading(GIB, 0, 0), OVER, OVER, Reading(10 * GIB, 0, 0))
    seen = machine.watch()
    assert [seen.poll() for _ in range(4)] == ["ok", "warn", "shrink", "stop"]


def test_recovery_is_believed() -> None:
    machine = FakeMachine(OVER, OVER, Reading(GIB, 0, 0))
    seen = machine.watch()
    assert [seen.poll() for _ in range(4)] == ["warn", "shrink", "ok", "ok"]


def test_far_over_budget_stops() -> None:
    assert FakeMachine(Reading(10 * GIB, 0, 0)).watch().poll() == "stop"


def test_the_whole_process_counts() -> None:
    assert FakeMachine(Reading(GIB, 0, 10 * GIB)).watch().poll() == "stop"


@pytest.mark.parametrize(
    ("pressure", "verdict"), [(Pressure.NORMAL, "ok"), (Pressure.WARN, "warn"), (Pressure.CRITICAL, "stop")]
)
def test_pressure_decides(pressure: Pressure, verdict: str) -> None:
    seen = FakeMachine(Reading(GIB, 0, 0, pressure)).watch()
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
    found = plan(qwen25("0.5B"), RunConfig(), this_machine(), NO_GUARD)
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
    found = plan(qwen25("3B"), RunConfig(), machine, NO_GUARD)
    assert found.terms["weights"] < wired_bytes(found) <= 0.85 * machine.working_set_bytes
    assert wired_bytes(plan(qwen25("0.5B"), RunConfig(), this_machine(), NO_GUARD)) == 0 or mx.metal.is_available()


def test_wired_limit_is_set_on_metal_and_restored(qwen25, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan(qwen25("3B"), RunConfig(), named_machine("m4-16gb"), NO_GUARD)
    limits: list[int] = []

    def set_wired_limit(size: int) -> int:
        limits.append(size)
        return 7

    monkeypatch.setattr(guard.mx, "set_wired_limit", set_wired_limit)
    with guarded(found):
        assert limits == [wired_bytes(found)]
    assert limits == [wired_bytes(found), 7]
