"""Positions in answers: how rows are read, encoded and kept, and what makes one unreadable."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.config import PreferenceOptions, SourceOptions
from mlx_loopai.data.audit import Auditor
from mlx_loopai.data.chosen_rows import judged_in
from mlx_loopai.data.conversation import Message
from mlx_loopai.data.held_out import held_apart
from mlx_loopai.data.pairs import read_judged
from mlx_loopai.data.positions import Position
from mlx_loopai.data.records import read_all, read_records
from mlx_loopai.data.row_file import RowFile, RowWriter
from mlx_loopai.data.row_identity import prompt_digest, rows_digest
from mlx_loopai.data.rows import RowForm, RowReader, WantedRows
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.data.turns import UnreadableError
from mlx_loopai.errors import InputError
from mlx_loopai.models.load import load_tokenizer

TLPO = PreferenceOptions(objective="tlpo")
PREFIX = "바다는 "


@pytest.fixture
def tokenizer(tiny_model_folder: Path) -> Any:
    return load_tokenizer(tiny_model_folder)


@pytest.fixture
def position(tokenizer: Any) -> Callable[..., dict[str, Any]]:
    """Builds a row; its candidates are the first tokens of `texts`, of which the first alone is right."""

    def build(
        prompt: str = "바다는 어때?", texts: tuple[str, ...] = ("고요하다", "calm", "静"), **changed: Any
    ) -> dict[str, Any]:
        found = []
        for place, text in enumerate(texts):
            token = tokenizer.encode(text, add_special_tokens=False)[0]
            piece = tokenizer.convert_ids_to_tokens(token)
            found.append(
                {"token": token, "piece": piece, "text": text, "score": float(place == 0), "logprob": -1.0 - place}
            )
        tokens = tokenizer.encode(PREFIX, add_special_tokens=False)
        return {"prompt": prompt, "prefix": PREFIX, "prefix_tokens": tokens, "candidates": found} | changed

    return build


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "positions.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def encoded(tokenizer: Any, path: Path, preference: PreferenceOptions = TLPO, **how: Any) -> list[TokenRow]:
    wanted = WantedRows(
        sources={"p": SourceOptions(path=str(path), **how)}, validation="", validation_share=0.0,
        preference=preference, form=RowForm("", 64),
    )  # fmt: skip
    return list(RowReader(tokenizer).rows(wanted).sources["p"])


def test_a_position_is_read_and_written_as_it_is(tmp_path: Path, position: Callable[..., dict[str, Any]]) -> None:
    (found,) = read_all(write(tmp_path, position() | {"source": "positions", "model": "m", "seed": 0})).judged
    assert isinstance(found, Position)
    assert found.prompt == (Message("user", "바다는 어때?"),)
    assert found.answer.messages[-1] == Message("assistant", "바다는 고요하다")
    assert found.origin.endswith("positions.jsonl:1")
    again = read_judged(found.as_row())
    assert (again.begun, again.meaning.messages) == (found.begun, found.answer.messages)


def test_its_row_ends_with_the_best_token_after_the_tokens_of_the_answer(
    tmp_path: Path, tokenizer: Any, position: Callable[..., dict[str, Any]]
) -> None:
    given = position()
    (row,) = encoded(tokenizer, write(tmp_path, given))
    assert row.ids[-1 - row.begun : -1].tolist() == given["prefix_tokens"]
    assert row.ids[-1] == given["candidates"][0]["token"]
    assert row.supervised.tolist() == [False] * (len(row.ids) - 1) + [True]
    assert row.candidates is not None
    assert row.candidates["token"].tolist() == [one["token"] for one in given["candidates"]]
    assert row.candidates["score"].tolist() == [1, 0, 0]
    answered = [{"prompt": given["prompt"], "completion": "x"}]
    (whole,) = encoded(tokenizer, write(tmp_path, *answered), PreferenceOptions())
    assert row.prompt.tolist() == whole.prompt.tolist()
    assert judged_in([row, whole]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"candidates": "none"}, "candidates must be a list of 2 to 256 tokens"),
        ({"candidates": [1, 2]}, "candidate 1 must be an object"),
        ({"candidates": [{"token": 1}, {"token": 2}]}, "candidate 1 has no piece, text, score, logprob"),
        ({"prefix_tokens": "x"}, "prefix_tokens must be a list of token ids"),
        ({"prefix_tokens": [1, -1]}, "prefix_tokens: -1 is not the id of a token"),
        ({"prefix_tokens": []}, "prefix without prefix_tokens"),
        ({"prefix": 3}, "prefix must be text"),
        ({"prompt": None}, "unknown shape"),
    ],
)
def test_what_makes_a_position_unreadable(
    tmp_path: Path, position: Callable[..., dict[str, Any]], changed: dict[str, Any], reason: str
) -> None:
    found = read_all(write(tmp_path, position(), position(**changed)))
    assert len(found.judged) == 1
    (bad,) = found.bad
    assert bad.origin.endswith(":2")
    assert reason in bad.reason


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("score", 1.0, "all have the same score, so there is nothing to learn"),
        ("score", "good", "candidates[1].score: 'good' is not a finite number"),
        ("logprob", float("nan"), "candidates[1].logprob: nan is not a finite number"),
        ("token", True, "candidates[1].token: True is not the id of a token"),
        ("token", 7, "the same token is there twice"),
        ("piece", None, "candidates[1].piece must be text"),
    ],
)  # fmt: skip
def test_what_makes_a_candidate_unreadable(
    tmp_path: Path, position: Callable[..., dict[str, Any]], name: str, value: Any, reason: str
) -> None:
    given = position()
    given["candidates"] = [one | {name: value} for one in given["candidates"]]
    (bad,) = read_all(write(tmp_path, given)).bad
    assert reason in bad.reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
NEAR = st.fixed_dictionaries(dict.fromkeys(("token", "piece", "text", "score", "logprob"), JSON))


@given(st.lists(NEAR, max_size=3) | JSON, st.lists(st.integers(0, 9), max_size=2) | JSON, JSON)
def test_any_json_is_a_position_or_unreadable(candidates: Any, prefix_tokens: Any, prefix: Any) -> None:
    row = {"prompt": "안녕?", "prefix": prefix, "prefix_tokens": prefix_tokens, "candidates": candidates}
    try:
        found = read_judged(row)
    except UnreadableError as error:
        assert str(error)
    else:
        assert found.begun is None or len({one.score for one in found.begun.candidates}) > 1


def test_tokens_with_other_names_in_the_vocabulary_are_refused(
    tmp_path: Path, tokenizer: Any, position: Callable[..., dict[str, Any]]
) -> None:
    given = position()
    given["candidates"][1]["piece"] = "other"
    with pytest.raises(
        InputError, match=r"positions\.jsonl:1: token \d+ is 'other' in this row and '.*' in the model's"
    ):
        encoded(tokenizer, write(tmp_path, given))
    for tokens in ([*given["prefix_tokens"], given["prefix_tokens"][0]], [10**6]):
        given = position(prefix_tokens=tokens)
        with pytest.raises(InputError, match=r"positions\.jsonl:1: prefix_tokens are .* and the prefix is '바다는 '"):
            encoded(tokenizer, write(tmp_path, given))
    long = position(prompt="바다 " * 80)
    with pytest.raises(InputError, match=r"positions\.jsonl:1: \d+ tokens are more than the 64 of a row"):
        encoded(tokenizer, write(tmp_path, long))


@pytest.mark.parametrize(
    ("row", "objective", "reason"),
    [
        ("position", "dpo", "a position in an answer .1 such rows.*set it to tlpo"),
        ("position", "none", "a pair of answers, one with a bad label, or a position"),
        ("pair", "tlpo", "a whole answer that was judged .* learns from positions"),
        ("label", "tlpo", "a whole answer that was judged .* learns from positions"),
        ("row", "tlpo", "none of p holds a position in an answer; make such rows with `feedback positions`"),
    ],
)
def test_objectives_and_rows_that_do_not_go_together(
    tmp_path: Path, tokenizer: Any, position: Callable[..., dict[str, Any]], row: str, objective: Any, reason: str
) -> None:
    rows = {
        "position": position(),
        "pair": {"prompt": "안녕?", "chosen": "안녕하세요.", "rejected": "Hi"},
        "label": {"prompt": "안녕?", "completion": "안녕하세요.", "label": True},
        "row": {"prompt": "안녕?", "completion": "안녕하세요."},
    }
    with pytest.raises(InputError, match=reason):
        encoded(tokenizer, write(tmp_path, rows[row]), PreferenceOptions(objective=objective))


def test_a_source_of_positions_alone(tmp_path: Path, tokenizer: Any, position: Callable[..., dict[str, Any]]) -> None:
    assert len(encoded(tokenizer, write(tmp_path, position()), kind="positions")) == 1
    with pytest.raises(
        InputError, match=r"positions\.jsonl:2: no position: `candidates` and `prefix_tokens` are missing"
    ):
        encoded(tokenizer, write(tmp_path, position(), {"prompt": "a", "completion": "b"}), kind="positions")
    with pytest.raises(InputError, match="a position: it scores tokens"):
        encoded(tokenizer, write(tmp_path, position()), kind="pairs")
    with pytest.raises(InputError, match="a position"):
        read_records(write(tmp_path, position()))


def test_fields_of_other_data_that_are_called_candidates_are_no_position(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "a", "completion": "b", "candidates": ["b", "c"]})
    found = read_all(path)
    assert (len(found.records), found.unused) == (1, {"candidates": 1})


def test_positions_come_back_from_a_file_of_encoded_rows(
    tmp_path: Path, tokenizer: Any, position: Callable[..., dict[str, Any]]
) -> None:
    path = write(tmp_path, position(), position("산은?", ("높다", "high")))
    rows = [replace(row, category="p") for row in encoded(tokenizer, path)]
    with (tmp_path / "rows").open("wb") as file:
        writer = RowWriter(file, [path])
        writer.extend(rows)
        writer.finish({})
        writer.close()
    kept = RowFile(tmp_path / "rows", [path], "p")
    assert rows_digest(kept) == rows_digest(rows)
    assert kept.column("candidates").tolist() == [3, 2]
    assert [row.begun for row in kept] == [row.begun for row in rows]
    assert judged_in(kept).all()
    for one, other in zip(kept, rows, strict=True):
        np.testing.assert_array_equal(one.candidates, other.candidates)


def test_positions_after_one_prompt_are_held_out_together(
    tmp_path: Path, tokenizer: Any, position: Callable[..., dict[str, Any]]
) -> None:
    shorter = {"prefix": "", "prefix_tokens": []}
    rows = [row for topic in "강산별눈" for row in (position(f"{topic}은?"), position(f"{topic}은?", **shorter))]
    found = encoded(tokenizer, write(tmp_path, *rows))
    assert prompt_digest(found[0]) == prompt_digest(found[1]) != prompt_digest(found[2])
    kept, held = held_apart({"p": found}, 0.25)
    assert (len(kept["p"]), len(held)) == (6, 2)
    assert prompt_digest(held[0]) == prompt_digest(held[1])


def test_an_audit_counts_positions(tmp_path: Path, position: Callable[..., dict[str, Any]]) -> None:
    with Auditor() as auditor:
        for row in read_all(write(tmp_path, position(), position("산은?"))).judged:
            auditor.add(row)
        found = auditor.finished()
    assert found.rows == 0
    assert found.preferences is not None
    assert (found.preferences.positions, found.preferences.prompts) == (2, 2)
    likely = np.exp([-1.0, -2.0, -3.0])
    assert found.preferences.best_probability == pytest.approx(likely[0] / likely.sum())
