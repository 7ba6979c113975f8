"""How many general prompts a run has answered."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_loopai.config import RunConfig, validate_config
from mlx_loopai.training.general_rows import prompts_needed


@pytest.mark.parametrize(
    ("settings", "rows", "needed"),
    [
        ({"replay": {"share": 0.5}}, 60, 128),  # 60 rehearsed, 24 watched
        ({"replay": {"share": 0.15}}, 60, 64),
        ({"replay": {"share": 0.5}}, 10_000, 400),
        ({"replay": {"share": 0.5}, "train": {"max_steps": 12, "rows_per_step": 8}}, 60, 128),
        ({"replay": {"share": 0.15}, "penalty": {"kind": "sketch"}}, 60, 192),
    ],
)
def test_only_the_answers_that_a_run_can_use_are_written(settings: dict[str, Any], rows: int, needed: int) -> None:
    assert prompts_needed(validate_config(settings, "recipe"), rows) == needed


def phased(share: float, *replay_shares: float | None) -> RunConfig:
    phases = [{"name": str(n), "mixture": {"a": 1.0}, "replay_share": own} for n, own in enumerate(replay_shares)]
    values = {"sources": {"a": {"path": "a.jsonl"}}, "phases": phases, "replay": {"source": "self", "share": share}}
    return validate_config(values, "recipe")


def test_what_every_phase_overrides_does_not_count() -> None:
    assert not phased(0.5, 0.0, 0.0).needs_rehearsal
    assert not phased(0.5, 0.0, 0.0).is_guarded
    assert phased(0.0, 0.0, 0.15).needs_rehearsal
    assert phased(0.5, 0.0, None).needs_rehearsal
    assert prompts_needed(phased(0.5, 0.15, 0.1), 60) == prompts_needed(phased(0.15, None), 60) == 64
