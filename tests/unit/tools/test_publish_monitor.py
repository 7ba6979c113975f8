"""The monitor's table is what its result file says, and that is what events say."""

from __future__ import annotations

import pytest

from mlx_loopai.errors import InputError
from tools import publish_monitor as readings


def test_the_committed_table_is_made_from_the_committed_result() -> None:
    text = readings.DOCUMENT.read_text(encoding="utf-8")
    assert readings.with_table(text, readings.read_result()) == text
    with pytest.raises(InputError, match="markers"):
        readings.with_table("# Experiments\n", {})


def test_times_are_those_between_events() -> None:
    kinds = [("start", 0), ("step", 9), ("step", 11), ("monitor", 16), ("step", 18), ("checkpoint", 40), ("step", 70)]
    events = [{"event": kind, "time": float(time), "step": 5, "kept": 0.75} for kind, time in kinds]
    # What stands between a start or a checkpoint and the next step is neither a step nor a reading.
    assert readings.readings_of(events) == {"steps": 4, "readings": [[5, 0.75]], "step_s": 2.0, "reading_s": 5.0}
    table = readings.table({"one": readings.readings_of(events)})
    assert "| one (4 steps) | 0.750 | – |" in table
    assert table.endswith("| 0.750 | 0.750 | 5.00 / 2.00 |")
