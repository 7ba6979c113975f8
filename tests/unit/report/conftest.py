"""Documents to report on."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.report.pages import arm, steps


@pytest.fixture
def document() -> dict[str, Any]:
    """A comparison as `demo` writes it: plain forgets, guarded does not."""
    base = arm(1.0, 1.0, None) | {
        "train_s": None,
        "step_s": None,
        "peak_bytes": None,
        "learning_rate": None,
        "curve": [],
    }
    return {
        "seed": 0,
        "model": "nano",
        "arms": {
            "base": base,
            "plain": arm(0.2, 0.0, 1.0, '{"text": ["비가 走了过去 왔다"]}'),
            "guarded": arm(0.98, 0.96, 0.97),
        },
        "command": "mlx-loopai demo --seed 0",
        "versions": {"mlx": "0.32.2"},
        "machine": "a machine",
    }


@pytest.fixture
def events() -> list[dict[str, Any]]:
    """The events of a run that ended."""
    done = {
        "event": "done",
        "run": "runs/first",
        "skipped_steps": 0,
        "steps": 60,
        "loss_first": 4.0,
        "loss_last": 2.5,
        "validation_first": None,
        "validation_last": None,
        "supervised_tokens": 6000,
        "tokens_per_s": 120.0,
        "real_token_share": 0.97,
        "supervised_token_share": 0.6,
        "peak_bytes": 3 << 30,
        "plan_bytes": 4 << 30,
        "resumed_from": None,
        "train_s": 50.0,
    }
    return [{"event": "start", "resumed_from": None, "total_steps": 60}, *steps(60, ("one", "two", "three")), done]
