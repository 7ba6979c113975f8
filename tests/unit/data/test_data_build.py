from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.config import validate_config
from mlx_loopai.data.build import build, recipe, to_line
from mlx_loopai.data.records import Message, Record
from mlx_loopai.data.shapes import interpret
from mlx_loopai.errors import InputError


def rows(category: str, count: int) -> list[Record]:
    return [
        Record(
            (Message("user", f"{category} {n}번"), Message("assistant", f"답 {n}")), "chat", category, f"{category}:{n}"
        )
        for n in range(count)
    ]


@given(st.integers(1, 60), st.integers(1, 90), st.floats(0, 0.3), st.integers(0, 5))
def test_counts_are_exact_even_and_apart_from_validation(found: int, wanted: int, share: float, seed: int) -> None:
    records = rows("domain", found)
    try:
        built = build(records, {"domain": wanted}, share, seed)
    except InputError as error:
        assert "held out" in str(error)
        return
    drawn = [record.origin for record in built.rows["domain"]]
    assert len(drawn) == wanted
    counts = [drawn.count(origin) for origin in set(drawn)]
    assert max(counts) - min(counts) <= 1
    assert wanted < built.shares["domain"].unique or len(set(drawn)) == built.shares["domain"].unique
    assert not {record.origin for record in built.validation} & set(drawn)
    assert build(records, {"domain": wanted}, share, seed) == built


def test_a_new_source_moves_no_row_across() -> None:
    before = build(rows("domain", 100), {"domain": 10}, 0.2, 0).validation
    after = build(rows("domain", 200), {"domain": 10}, 0.2, 0).validation
    assert {record.origin for record in before} <= {record.origin for record in after}
    assert 10 <= len(before) <= 32


def test_repeats_count_once_and_json_becomes_prose() -> None:
    shaped = Record((Message("user", "글"), Message("assistant", '{"text": ["글."]}')), "chat", "domain", "x:1")
    built = build([*rows("domain", 3), *rows("domain", 3), shaped], {"domain": 4}, 0, 0)
    assert (built.shares["domain"].found, built.shares["domain"].unique, built.reshaped) == (7, 4, 1)
    assert "글." in {record.messages[-1].content for record in built.rows["domain"]}


@pytest.mark.parametrize(
    ("counts", "says"),
    [({"dialogue": 5}, "no count for the category domain"), ({"domain": 1, "creative": 2}, "creative")],
)
def test_a_category_without_rows_or_count_is_named(counts: dict[str, int], says: str) -> None:
    with pytest.raises(InputError, match=says):
        build(rows("domain", 2), counts, 0, 0)


@pytest.mark.parametrize(
    "categories", [("domain",), ("dialogue", "domain"), ("dialogue", "knowledge", "creative", "domain")]
)
def test_the_recipe_is_valid_and_every_category_is_trained(categories: tuple[str, ...]) -> None:
    config = validate_config(recipe({name: f"{name}.jsonl" for name in categories}, "v.jsonl", 0.1), "recipe")
    assert {name for phase in config.phases for name in phase.mixture} == set(categories)
    assert config.replay.share == 0.1


def test_a_line_is_read_back_as_the_same_messages() -> None:
    record = rows("domain", 1)[0]
    import json

    assert interpret(json.loads(to_line(record))).messages == record.messages
