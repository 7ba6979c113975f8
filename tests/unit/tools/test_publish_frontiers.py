"""The table of frontiers is what its result file says."""

from __future__ import annotations

from tools import publish_frontiers as frontiers


def test_the_committed_table_is_made_from_the_committed_result() -> None:
    text = frontiers.DOCUMENT.read_text(encoding="utf-8")
    assert frontiers.with_table(text, frontiers.read_result()) == text


def test_a_row_has_the_gain_of_plain_as_1() -> None:
    point = {
        "scale": 0.5,
        "divergence": 0.0123,
        "gain": 0.9,
        "retention": 0.98,
        "retention_min": 0.9,
        "retention_interval": [0.95, 1.0],
    }
    found = frontiers.table({"small": {"plain_gain": 1.2, "points": [point]}})
    assert found.splitlines()[-1] == "| small | 0.5 | 0.0123 | 0.900 | 0.750 | 0.980 (0.950 to 1.000) | 0.900 |"
