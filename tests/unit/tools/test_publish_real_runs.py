"""The table of guarded runs on real models is what its result file says."""

from __future__ import annotations

import pytest

from tools import publish_real_runs as real_runs


def test_the_committed_table_is_made_from_the_committed_result() -> None:
    text = real_runs.DOCUMENT.read_text(encoding="utf-8")
    assert real_runs.with_table(text, real_runs.read_result()) == text
    for readme in real_runs.READMES:
        text = readme.read_text(encoding="utf-8")
        assert real_runs.with_short_table(text, real_runs.read_result(), readme) == text


def test_the_readmes_show_judged_runs_beside_a_plain_one() -> None:
    runs = real_runs.read_result()
    for name in real_runs.SHOWN:
        assert runs[name]["retention"] is not None
        assert runs[name]["questions"] >= 100
        assert runs[name]["plain_gain"] > 0


def test_every_word_of_the_short_table_is_translated() -> None:
    shown = real_runs.short_table(real_runs.read_result())
    assert [word for word in real_runs.KOREAN if word not in shown] == []


def test_a_gain_is_a_share_of_plains(monkeypatch: pytest.MonkeyPatch) -> None:
    run = {
        "steps": 120, "rate": 5e-4, "corrected": True, "budget": 0.06, "divergence": 0.0123, "largest": 0.05,
        "before": 4.0, "after": 2.5, "plain_gain": 2.0, "retention": 0.98, "retention_min": 0.9,
        "retention_interval": [0.95, 1.0], "switched_retention": 1.0, "noise_floor": 0.97,
        "questions": 140,
    }  # fmt: skip
    cells = real_runs.table({"small": run}).splitlines()[-1].split(" | ")
    assert cells[:4] == ["| small", "120", "0.0005", "yes"]
    assert cells[6] == "–"  # an older run, which did not read kinds apart
    assert cells[10:13] == ["1.500", "0.750", "0.980 (0.950 to 1.000)"]
    monkeypatch.setattr(real_runs, "SHOWN", ("small",))
    assert real_runs.short_table({"other": run, "small": run}).splitlines()[2:] == [
        "| small | 140 | 0.980 (0.950 to 1.000) | 0.970 | 1.000 | 0.750 |"
    ]
    unmeasured = run | {"plain_gain": None, "retention": None, "retention_interval": None}
    assert real_runs.table({"alone": unmeasured}).splitlines()[-1].split(" | ")[10:13] == ["1.500", "–", "–"]


def test_the_plain_run_is_a_folder_or_a_published_one(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = {"guarded": {"before": 4.0, "after": 2.5}, "plain": {"before": 4.0, "after": 2.0}}
    monkeypatch.setattr(real_runs, "figures", lambda run: recorded[run.name])
    published = {"small, plain": {"before": 4.0, "after": 1.0}}
    assert real_runs.taken("small=runs/guarded:runs/plain", published) == (
        "small", recorded["guarded"] | {"plain_gain": 2.0}
    )  # fmt: skip
    assert real_runs.taken("small=runs/guarded:small, plain", published)[1]["plain_gain"] == 3.0
    assert real_runs.taken("small=runs/guarded", published)[1]["plain_gain"] is None
