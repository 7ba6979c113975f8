from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.benchmark.cases import GenerateCase, TrainCase, equal_rows
from mlx_loopai.benchmark.costs import Price, rate_of_equal_cost, read_prices
from mlx_loopai.benchmark.race import Setup, race_generation, race_training
from mlx_loopai.benchmark.results import compare_results
from mlx_loopai.benchmark.tables import comparison_table, conditions_text, cost_table, picture, result_table
from mlx_loopai.errors import InputError
from mlx_loopai.runs.documents.race import GenerateRace, Machine, TrainRace
from tests.unit.benchmark.sides import FakeRun, generated, trained

MACHINE = Machine(chip="Some CPU", cores=2, threads="1", versions={"mlx": "0.32.4"})


@pytest.fixture
def result(tmp_path: Path, tiny_model_folder: Path) -> TrainRace:
    run = FakeRun({"mlx-loopai": [trained(300.0, peak=1 << 20)] * 2, "mlx-lm": [trained(100.0, peak=4 << 20)] * 2})
    case = TrainCase(str(tiny_model_folder), steps=3)
    found = race_training(case, equal_rows(300, 12, 4, 0), tmp_path / "case", Setup(["mlx-loopai", "mlx-lm"], 2, run))
    return replace(found, machine=MACHINE, disturbances=("load 9",))


def with_side(result: TrainRace, name: str, **figures: Any) -> TrainRace:
    return replace(result, backends={**result.backends, name: replace(result.backends[name], **figures)})


def test_two_results_of_one_race_are_compared(result: TrainRace) -> None:
    compared = compare_results(result, with_side(result, "mlx-loopai", supervised_tokens_per_s=450.0))
    assert compared["equal"]
    assert compared["machines"] == ["Some CPU", "Some CPU"]
    assert compared["ratios"]["mlx-loopai"] == {"supervised_tokens_per_s": 1.5, "peak_bytes": 1.0}
    assert "| mlx-loopai | 300.0 | 450.0 | 1.50 |" in comparison_table(compared)


def test_results_of_different_races_say_where_they_differ(result: TrainRace) -> None:
    other = replace(with_side(result, "mlx-lm", loss_first=3.0), case={**result.case, "rank": 16})
    compared = compare_results(result, other)
    assert not compared["equal"]
    assert compared["differences"] == ["case.rank: 8 and 16", "mlx-lm: first loss 2 and 3"]
    with pytest.raises(InputError, match="no backend in common"):
        compare_results(result, replace(other, backends={"torch-mps": other.backends["mlx-lm"]}))
    generation = GenerateRace(case={}, rounds=1, backends={}, ratios={}, equal=True)
    with pytest.raises(InputError, match="one result is of train"):
        compare_results(result, generation)


def test_a_table_gives_rates_with_intervals_and_ratios(result: TrainRace) -> None:
    table = result_table(result)
    assert "| | mlx-loopai | mlx-lm |" in table
    assert "| supervised tokens/s | 300.0 (300.0 to 300.0) | 100.0 (100.0 to 100.0) |" in table
    assert "| mlx-loopai: times that rate |  | 3.00 (3.00 to 3.00) |" in table
    assert "| peak above the weights | 1.0 MiB | 4.0 MiB |" in table
    text = conditions_text(result)
    assert "Some CPU, 2 cores, MKL_NUM_THREADS=1; mlx 0.32.4." in text
    assert text.endswith("Disturbed: load 9.")


def test_both_of_our_columns_are_compared_with_the_others(tmp_path: Path, tiny_model_folder: Path) -> None:
    rates = {"mlx-loopai": 300.0, "mlx-loopai-compiled": 400.0, "mlx-lm": 100.0}
    run = FakeRun({name: [trained(rate)] for name, rate in rates.items()})
    case = TrainCase(str(tiny_model_folder), steps=3)
    table = result_table(race_training(case, equal_rows(300, 12, 4, 0), tmp_path / "case", Setup(list(rates), 1, run)))
    assert "| | mlx-loopai | mlx-loopai (compiled) | mlx-lm |" in table
    assert "| mlx-loopai: times that rate |  | 0.75 (0.75 to 0.75) | 3.00 (3.00 to 3.00) |" in table
    assert "| mlx-loopai (compiled): times that rate |  |  | 4.00 (4.00 to 4.00) |" in table
    assert "mlx-lm: times" not in table


def test_a_generation_table_has_every_batch(tiny_model_folder: Path) -> None:
    answers = [[[1, 2, 3]], [[1, 2, 3], [4, 5, 6]]]
    run = FakeRun({"mlx-loopai": [generated(answers)]})
    case = GenerateCase(str(tiny_model_folder), ((1,), (2,)), 3, (1, 2))
    result = race_generation(case, Setup(["mlx-loopai"], 1, run))
    table = result_table(result)
    assert "| batch 2: answer tokens/s | 4.0 (4.0 to 4.0) |" in table
    assert "| batch 1: time to first token | 500.0 ms |" in table
    assert "mlx-loopai</text>" in picture(result)


def test_the_picture_is_a_whole_svg_file(result: TrainRace) -> None:
    from xml.etree import ElementTree

    root = ElementTree.fromstring(picture(result))
    widths = [float(bar.get("width", 0)) for bar in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[0] == pytest.approx(3 * widths[1])


def test_costs_follow_the_table(tmp_path: Path, result: TrainRace) -> None:
    prices = read_prices()
    assert [price.dollars_per_hour for price in prices] == [0.1, 0.8, 2.5]
    assert Price("a", 0.36).per_million_tokens(100.0) == pytest.approx(1.0)
    assert rate_of_equal_cost(prices[0], prices[1], 100.0) == pytest.approx(800.0)
    assert "| rented GPU, small | 0.8 | 0.741 | 2.22 | 2,400 |" in cost_table(result, prices)
    own = tmp_path / "costs.yaml"
    own.write_text("mine: {dollars_per_hour: 0.05}\n", encoding="utf-8")
    assert read_prices(own) == [Price("mine", 0.05)]


@pytest.mark.parametrize(
    "content", ["[1]", "a: {x: 1}", "a: {dollars_per_hour: 0}", "a: {dollars_per_hour: x}", "", ":["]
)
def test_another_shape_of_cost_table_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "costs.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"costs\.yaml"):
        read_prices(path)
