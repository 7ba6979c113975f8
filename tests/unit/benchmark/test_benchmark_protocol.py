from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.benchmark.protocol import Figure, paired_ratio, run_in_process, take_turns
from mlx_loopai.benchmark.worker import Job
from mlx_loopai.errors import InputError, LoopaiError


def test_sides_take_turns_and_every_other_round_goes_backwards() -> None:
    order: list[tuple[str, int]] = []
    heard: list[tuple[int, str]] = []

    def run(name: str, number: int) -> dict[str, str]:
        order.append((name, number))
        return {"of": f"{name}{number}"}

    found = take_turns(["a", "b"], 3, run, lambda done, note: heard.append((done, note)))
    assert order == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    assert found == {name: [{"of": f"{name}{number}"} for number in range(3)] for name in "ab"}
    assert [done for done, _ in heard] == list(range(6))


@pytest.mark.parametrize(("backends", "rounds"), [(["a", "a"], 1), ([], 1), (["a"], 0)])
def test_a_race_without_sides_or_rounds_is_refused(backends: list[str], rounds: int) -> None:
    with pytest.raises(InputError):
        take_turns(backends, rounds, lambda name, number: {})


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=9))
def test_a_median_lies_in_its_interval_and_that_within_the_values(values: list[float]) -> None:
    figure = Figure.of(values)
    assert min(values) <= figure.low <= figure.median <= figure.high <= max(values)


def test_a_slow_round_cancels_in_the_paired_ratio() -> None:
    ratio = paired_ratio([20.0, 2.0, 200.0], [10.0, 1.0, 100.0])
    assert ratio == Figure(2.0, 2.0, 2.0)
    assert paired_ratio([1.0, 1.0], [0.0, 2.0]) is None


def test_a_worker_that_fails_says_why() -> None:
    with pytest.raises(InputError, match="no-such-side: unknown; there are mlx-loopai"):
        run_in_process(Job("generate", "no-such-side", generate={"model": "/nowhere", "prompts": [[1]]}))
    with pytest.raises(LoopaiError, match="mlx-loopai: its process ended"):
        run_in_process(Job("train", "mlx-loopai", "/nowhere"))
