"""The time of a run as a range, by hand and by its properties."""

from __future__ import annotations

import pytest

from mlx_loopai.config import RunConfig, load_config
from mlx_loopai.config.shipped import shipped_values
from mlx_loopai.experiments.preview import Preview, preview
from mlx_loopai.experiments.run_time import Speed, Work, run_time, speed_of, work_of
from mlx_loopai.guards.terms import memory_terms
from mlx_loopai.memory.machine import named_machine
from mlx_loopai.memory.plan import plan
from mlx_loopai.memory.request import NOTHING_KNOWN
from mlx_loopai.models.known_shapes import known_config
from mlx_loopai.models.shape import ModelShape

SHAPE = ModelShape.from_config(known_config("Qwen2.5-0.5B-shape") or {})
MAC = named_machine("m4-16gb")
SPEED = Speed(flops_s=1e12, bytes_s=1e11, step_s=0.1, token_s=0.001, spread=4.0, source="a test")
LENGTHS = [100] * 64


def guarded(*overrides: str) -> RunConfig:
    rows = {"sources": {"rows": {"path": "rows.jsonl"}}}
    return load_config(None, overrides, shipped_values("guarded") | rows)


def needs(config: RunConfig, lengths: list[int] = LENGTHS) -> Preview:
    return preview(SHAPE, config, MAC, NOTHING_KNOWN, lengths, SPEED)


def test_work_counts_rehearsal_and_passes() -> None:
    config = guarded("train.epochs=2", "train.rows_per_step=4", "replay.share=0.5", "train.max_tokens=100")
    rehearsed = 2 * (20 + config.replay.answer_tokens)
    assert work_of(config, [50] * 9 + [1000], 20) == Work(steps=10, own_tokens=110, rehearsed_tokens=rehearsed)
    assert work_of(guarded("train.max_steps=7"), [10]).steps == 7


def test_a_plain_run_is_its_steps_by_hand() -> None:
    config = guarded("train.rows_per_step=4", "train.max_steps=10").without_guards()
    planned = plan(SHAPE, config, MAC, memory_terms(config.penalty, config.replay))
    found = run_time(SHAPE, config, planned, [100] * 8, SPEED)
    assert list(found.phases) == ["training", "scoring rows before and after"]
    blocks, head = sum(block.matrix_parameters for block in SHAPE.blocks), SHAPE.vocab_size * SHAPE.hidden_size
    assert not planned.checkpointing
    attention = 100 * SHAPE.attention_size * 3 * SHAPE.n_layers
    step = 0.1 + 2 * 400 * (2 * (blocks + head) + attention) / 1e12
    scored = 2 * 2 * 800 * SHAPE.matrix_parameters / 1e12  # eight rows of 100 tokens, twice
    assert (found.total.low_s, found.total.high_s) == pytest.approx(
        ((10 * step + scored) / 2, (10 * step + scored) * 2)
    )
    assert (found.guards.low_s, found.guards.high_s) == (0, 0)


def test_guards_are_named_and_counted() -> None:
    found = needs(guarded()).time
    assert found is not None
    assert set(found.phases) == {
        "training", "scoring rows before and after", "rehearsal answers", "the base's states", "watching",
        "measuring before and after",
    }  # fmt: skip
    assert 0 < found.guards.low_s < found.total.low_s
    assert found.guards.high_s < found.total.high_s
    sketch = needs(guarded("penalty.kind=sketch", "forgetting.questions=0")).time
    assert sketch is not None
    assert "importance" in sketch.phases
    assert "measuring before and after" not in sketch.phases
    held = needs(guarded("penalty.held_energy=0.25")).time
    assert held is not None
    small, other = 896, 4864
    attention = 2 * (2 * small**3 + 9 * small**3) + 2 * (2 * 128**2 * small + 9 * 128**3)
    seconds = 24 * (attention + 3 * (2 * small**2 * other + 9 * small**3)) / 4e10
    assert held.phases["singular directions"].low_s == pytest.approx(seconds / 2)


def test_drawing_answers_is_named_and_is_no_guard() -> None:
    rows = {"sources": {"asked": {"path": "prompts.jsonl"}}}
    chosen = ("preference.objective=grpo", "train.max_steps=10")
    config = load_config(None, chosen, shipped_values("guarded-prompts") | rows)
    found, longer, more = (
        needs(config.model_copy(update={"preference": config.preference.model_copy(update=changed)})).time
        for changed in ({}, {"answer_tokens": 320}, {"group": 8})
    )
    assert found is not None
    assert longer is not None
    assert more is not None
    assert "scoring rows before and after" not in found.phases  # prompts have no answer to score
    drawn = found.phases["drawing answers"]
    assert 0 < drawn.low_s < drawn.high_s
    for other in (longer, more):
        assert other.phases["drawing answers"].high_s > drawn.high_s
        assert other.phases["training"].high_s > found.phases["training"].high_s
    plain = needs(config.without_guards()).time
    assert plain is not None
    assert (plain.guards.low_s, plain.guards.high_s) == (0, pytest.approx(plain.phases["watching"].high_s))
    assert found.parts["steps_s"][1] > drawn.high_s


def test_more_work_takes_longer_and_a_faster_machine_less() -> None:
    one, two = (needs(guarded(f"train.epochs={epochs}")).time for epochs in (1, 2))
    assert one is not None
    assert two is not None
    assert one.total.low_s < two.total.low_s
    slow, fast = (speed_of(named_machine(name)) for name in ("m1-16gb", "m4-max-64gb"))
    assert slow.flops_s < fast.flops_s
    assert slow.source == "published rates of this chip"


def test_its_parts_add_up_to_all_of_it() -> None:
    found = needs(guarded()).time
    assert found is not None
    assert set(found.parts) == {"before_s", "steps_s", "after_s"}
    assert all(low > 0 for low, _ in found.parts.values())
    assert sum(high for _, high in found.parts.values()) == pytest.approx(found.total.high_s)


def test_it_is_said_in_words_and_as_numbers() -> None:
    found = needs(guarded())
    time, guards = found.lines
    assert time.startswith("time: ")
    assert "rehearsal answers" in time
    assert "more memory than without" in guards
    document = found.to_json()
    low, high = document["time"]["total_s"]
    assert 0 < low < high
    assert document["guards_bytes"] == found.guards_bytes


def test_without_rows_no_time_is_made_up() -> None:
    found = needs(guarded(), [])
    assert found.time is None
    assert "unknown" in found.lines[0]
    assert found.to_json()["time"] is None
