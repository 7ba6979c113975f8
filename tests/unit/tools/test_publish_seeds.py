"""The table of seeds: a row a seed and the means, and each seed against plain of the same seed."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.runs.documents.comparison import Comparison
from tools import publish_seeds as seeds


def test_a_gain_is_against_plain_of_the_same_seed(document: dict[str, Any]) -> None:
    def of(*scores: float) -> list[dict[str, Any]]:
        return [
            {"seed": seed, "retention": 0.98 + seed / 100, "retention_min": 0.9, "domain_score": score}
            for seed, score in enumerate(scores)
        ]

    document["arms"]["base"] |= {"domain_score": -8.0}
    document["arms"]["plain"] |= {"seeds": of(-4.0, -3.0)}
    document["arms"]["guarded"] |= {"seeds": of(-5.0, -3.5)}
    compared = Comparison.from_json(document | {"seeds": [0, 1]}, "compare.json")
    rows = [line for line in seeds.table(compared).splitlines() if line.startswith("| guarded")]
    assert rows == [
        "| guarded | 0 | 0.980 | 0.900 | 0.750 | -5.000 |",
        "| guarded | 1 | 0.990 | 0.900 | 0.900 | -3.500 |",
        "| guarded | mean | 0.985 | 0.900 | 0.825 | -4.250 |",
    ]
    with pytest.raises(InputError, match="markers"):
        seeds.with_table("# Experiments\n", compared, "seeds")


def test_comparisons_of_one_seed_each_are_joined(document: dict[str, Any]) -> None:
    def of(seed: int) -> Comparison:
        ran = {"seed": seed, "retention": 1.0, "retention_min": 1.0, "domain_score": -3.0 - seed}
        document["arms"]["plain"] |= {"seeds": [ran]}
        document["arms"]["guarded"] |= {"seeds": [ran]}
        return Comparison.from_json(document | {"seeds": [seed]}, "compare.json")

    found = seeds.joined([of(3), of(5)])
    assert found.seeds == (3, 5)
    assert [one.domain_score for one in found.arms["guarded"].seeds] == [-6.0, -8.0]
