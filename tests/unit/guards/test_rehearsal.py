from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_loopai.config import ReplayOptions
from mlx_loopai.data.records import Message, Record
from mlx_loopai.data.samples import texts
from mlx_loopai.data.tokens import REHEARSAL, ChatEncoder
from mlx_loopai.errors import InputError
from mlx_loopai.generation import engine
from mlx_loopai.generation.engine import Generation
from mlx_loopai.guards.rehearsal import (
    WATCHED_ALONE,
    Answering,
    Rehearsal,
    general_prompts,
    is_spelled_out,
    self_rehearsal,
)
from mlx_loopai.models.load import LoadedModel, load_model
from tests.unit.conftest import row


@pytest.fixture(scope="module")
def tiny(tiny_model_folder: Path) -> LoadedModel:
    return load_model(str(tiny_model_folder), "fp32")


def record(*contents: str) -> Record:
    roles = ("user", "assistant") * len(contents)
    return Record(tuple(map(Message, roles, contents)), "chat", "knowledge", "here:1")


def answering(monkeypatch: pytest.MonkeyPatch, tiny: LoadedModel, *answers: tuple[str, bool]) -> None:
    """The base answers so: (text, whether it ended by itself)."""

    def generate(loaded: LoadedModel, prompts: list[list[int]], *_: Any) -> list[Generation]:
        found = []
        for (text, finished), prompt in zip(answers, prompts, strict=True):
            tokens = tuple(tiny.tokenizer.encode(text, add_special_tokens=False))
            found.append(Generation(text, tokens, finished, len(prompt)))
        return found

    monkeypatch.setattr(engine, "generate_batch", generate)


def rehearse(tiny: LoadedModel, prompts: list[str]) -> Rehearsal:
    return self_rehearsal(tiny, ChatEncoder(tiny.tokenizer), prompts, Answering(answer_tokens=8))


def test_prompts_are_the_first_requests_seeded_and_limited() -> None:
    records = [record(f"질문 {index}", "답", f"다음 {index}", "답") for index in range(9)]
    found = general_prompts(records, ReplayOptions(max_prompts=5), seed=1)
    assert len(set(found)) == 5
    assert all(prompt.startswith("질문") for prompt in found)
    assert found == general_prompts(records[::-1], ReplayOptions(max_prompts=5), seed=1)
    assert found != general_prompts(records, ReplayOptions(max_prompts=5), seed=2)


def test_without_general_rows_the_embedded_prompts_serve() -> None:
    found = general_prompts([], ReplayOptions(max_prompts=10_000), seed=0)
    assert sorted(found) == sorted(prompt for prompts in texts.prompts_by_kind().values() for prompt in prompts)


def test_the_embedded_kinds_are_taken_evenly() -> None:
    kinds = texts.prompts_by_kind()
    found = set(general_prompts([], ReplayOptions(max_prompts=6 * len(kinds)), seed=0))
    assert {kind: len(found & set(prompts)) for kind, prompts in kinds.items()} == dict.fromkeys(kinds, 6)


class Spelling:
    """A tokenizer with a token for each Latin character and three bytes for every other one."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        assert not add_special_tokens
        return list(text.encode())


class SpellingAll:
    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [0, 0] * len(text)


def test_prompts_that_the_tokenizer_spells_out_are_not_rehearsed() -> None:
    options = ReplayOptions(max_prompts=400)
    found = general_prompts([], options, 0, Spelling())
    assert len(found) == 400
    assert not any(is_spelled_out(prompt, Spelling()) for prompt in found)
    assert "ko_chat" not in {kind for kind, prompts in texts.prompts_by_kind().items() if set(prompts) & set(found)}
    # Somebody's own prompts are theirs to choose; and there is always something to rehearse.
    own = [record("한국어 질문", "답")]
    assert general_prompts(own, options, 0, Spelling()) == ["한국어 질문"]
    assert general_prompts([], options, 0, SpellingAll()) == general_prompts([], options, 0)


def test_general_rows_without_a_request_are_refused() -> None:
    with pytest.raises(InputError, match="user turn"):
        general_prompts([Record((Message("assistant", "글"),), "text", "knowledge", "x:1")], ReplayOptions(), seed=0)


def test_a_finished_answer_is_a_row_like_any_other(monkeypatch: pytest.MonkeyPatch, tiny: LoadedModel) -> None:
    answering(monkeypatch, tiny, ("좋습니다.", True))
    (found,) = rehearse(tiny, ["날씨는?"]).rows
    expected = ChatEncoder(tiny.tokenizer).encode(record("날씨는?", "좋습니다."))
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.supervised, expected.supervised)
    assert found.category == REHEARSAL


def test_an_answer_cut_short_does_not_teach_to_stop(monkeypatch: pytest.MonkeyPatch, tiny: LoadedModel) -> None:
    answering(monkeypatch, tiny, ("옛날 옛적에", False))
    (found,) = rehearse(tiny, ["이야기"]).rows
    whole = ChatEncoder(tiny.tokenizer).encode(record("이야기", "옛날 옛적에"))
    assert len(found.ids) < len(whole.ids)
    assert np.array_equal(found.ids, whole.ids[: len(found.ids)])
    assert np.array_equal(found.supervised, whole.supervised[: len(found.ids)])
    assert not set(found.ids[found.supervised]) & {0, 1, 2}


def test_empty_and_looping_answers_are_left_out(monkeypatch: pytest.MonkeyPatch, tiny: LoadedModel) -> None:
    answering(monkeypatch, tiny, (" ", True), ("가나다라 " * 60, False), ("좋습니다.", True))
    found = rehearse(tiny, ["하나", "둘", "셋"])
    assert found.dropped == 2
    assert [one.origin for one in found.rows] == ["rehearsal:3"]


def test_the_base_answers_the_same_way_twice(tiny: LoadedModel) -> None:
    one, two = (rehearse(tiny, ["하나", "봄비에 대해"]) for _ in range(2))
    assert [list(each.ids) for each in one.rows] == [list(each.ids) for each in two.rows]


@pytest.mark.parametrize("count", [0, 3])
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, count: int) -> None:
    path = tmp_path / "rehearsal.jsonl"
    rows = [replace(row(5 + index, origin=f"r\u2028{index}"), ability=f"a{index}") for index in range(count)]
    rehearsal = Rehearsal(tuple(rows), dropped=2)
    rehearsal.save(path)
    loaded = Rehearsal.load(path)
    assert loaded.dropped == 2
    for one, other in zip(rehearsal.rows, loaded.rows, strict=True):
        assert np.array_equal(one.ids, other.ids)
        assert one.ids.dtype == other.ids.dtype
        assert np.array_equal(one.supervised, other.supervised)
        assert (one.origin, one.ability) == (other.origin, other.ability)
    assert [entry.name for entry in tmp_path.iterdir()] == ["rehearsal.jsonl"]


def test_a_row_knows_what_its_prompt_asks_for(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert texts.abilities().keys() == {prompt for prompts in texts.prompts_by_kind().values() for prompt in prompts}
    kinds = texts.prompts_by_kind()
    sum_, sentence, talk = (kinds[kind][0] for kind in ("sums", "ko_sentence", "ko_talk_request"))
    answering(monkeypatch, tiny, ("65", True), ("숲은 조용하다", False), ("축하해요.", True), ("답", True))
    found = rehearse(tiny, [sum_, sentence, talk, "나만의 질문"])
    assert [one.ability for one in found.rows] == ["sums", "korean_writing", "korean_chat", ""]


def test_a_row_that_is_only_watched_says_so(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [texts.prompts_by_kind()["ko_sentence"][0], *texts.prompts_by_kind()["watched_korean_writing"]]
    answering(monkeypatch, tiny, *[("숲은 조용하다", True)] * len(prompts))
    found = rehearse(tiny, prompts)
    assert [one.origin.startswith(WATCHED_ALONE) for one in found.rows] == [False, *[True] * (len(prompts) - 1)]
    assert {one.ability for one in found.rows} == {"korean_writing"}


def test_free_rehearsal_has_no_prompts_and_needs_a_temperature() -> None:
    options = ReplayOptions(source="free", max_prompts=3, temperature=1.0)
    assert general_prompts([], options, seed=0) == ["", "", ""]
    with pytest.raises(ValueError, match="temperature"):
        ReplayOptions(source="free")
