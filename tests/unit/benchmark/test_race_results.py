from __future__ import annotations

from mlx_loopai.benchmark.race_results import BatchMeasured, StepClock, StepTokens


def test_steps_of_a_new_shape_are_counted_apart() -> None:
    moments = iter([0.0, 5.0, 10.0, 11.0, 20.0, 23.0, 30.0, 32.0])
    clock = StepClock(now=lambda: next(moments))
    for shapes in ({(2, 8)}, {(2, 8)}, {(2, 8), (1, 16)}, {(1, 16)}):
        clock.start()
        clock.stop(set(shapes), StepTokens(real=10, supervised=4, computed=16))
    assert (clock.first_s, clock.timed_s) == (5.0 + 3.0, 1.0 + 2.0)
    assert (clock.steps, clock.tokens, clock.supervised) == (4, 20, 8)
    assert (clock.all_tokens, clock.computed) == (40, 64)


def test_decoding_counts_the_tokens_after_each_rows_first() -> None:
    measured = BatchMeasured(2, 12, 0.5, 2.5, 0, ((1, 2, 3), (4,)))
    assert measured.tokens_per_s == 2 / 2.0
    assert measured.prefill_tokens_per_s == 24.0
    assert BatchMeasured(1, 3, 0.5, 0.5, 0, ((),)).tokens_per_s == 0
