"""How many general prompts a run has answered."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_loopai.config import validate_config
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
