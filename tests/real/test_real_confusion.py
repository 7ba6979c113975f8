"""Pass rates on published completions of the Language Confusion Benchmark, against figures known of them.

MLX_LOOPAI_LCB names a clone of github.com/for-ai/language-confusion (its `outputs` and `words`).
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from mlx_loopai.text.language_id import fasttext_identifier, language_confusion
from mlx_loopai.text.measures import line_pass_rate

FOLDER = Path(os.environ.get("MLX_LOOPAI_LCB", ""))
# Korean, monolingual; by the study's definition with lid.176.ftz: texts judged, LPR, WPR (None: no text passes).
KNOWN = {
    "gpt-4-turbo": (98, 1.000, 0.990),
    "command-r-plus": (100, 1.000, 1.000),
    "mistral-8x7b": (98, 0.622, 0.607),
    "mistral-large": (100, 0.640, 1.000),
    "llama-3-instruct": (100, 0.000, None),
}

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif("MLX_LOOPAI_LCB" not in os.environ, reason="MLX_LOOPAI_LCB names no folder"),
]


def korean(model: str) -> list[str]:
    path = FOLDER / "outputs" / f"{model}.csv"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["completion"] for row in rows if (row["task"], row["language"]) == ("monolingual", "ko")]


@pytest.mark.parametrize("model", KNOWN)
def test_the_reference_definition(model: str) -> None:
    pytest.importorskip("fasttext", reason="the extra lid is not installed")
    words = (FOLDER / "words").read_text(encoding="utf-8").split()
    found = language_confusion(korean(model), fasttext_identifier(), words)
    n, lpr, wpr = KNOWN[model]
    assert found.n == n
    assert found.lpr == pytest.approx(lpr, abs=0.01)
    assert found.wpr == (None if wpr is None else pytest.approx(wpr, abs=0.01))


@pytest.mark.parametrize("model", KNOWN)
def test_the_rule_on_scripts_is_no_milder_by_more_than_a_little(model: str) -> None:
    assert line_pass_rate(korean(model)) <= KNOWN[model][1] + 0.03
