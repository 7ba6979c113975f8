"""The writer's thread: what requests that begin together have in common is read once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.nn as nn
import pytest

from mlx_loopai.config import GenerationOptions
from mlx_loopai.generation.lineup import Lineup, open_lineup
from mlx_loopai.models.prompt_cache import Prefix, compute_prefix
from mlx_loopai.serving import writer as writing
from mlx_loopai.serving.shapes import ApiError, Report
from mlx_loopai.serving.writer import Event, Task, Writer
from tests.unit.serving.test_lineup import save_random_adapter

QUESTIONS = ("한국의 수도는?", "호랑이 이야기를 들려줘.", "바다는 왜 짤까?", "봄은 언제 올까?")
SYSTEM = "당신은 바닷가 마을의 이야기를 들려주는 친절한 할머니입니다. 짧고 따뜻하게 대답합니다. "
OPTIONS = GenerationOptions(temperature=0, max_tokens=8, scripts="off", filter=False, repetition_guard=0)


@pytest.fixture(scope="module")
def lineup(tmp_path_factory: pytest.TempPathFactory) -> Lineup:
    folder = tmp_path_factory.mktemp("run") / "first" / "adapter"
    folder.parent.mkdir()
    save_random_adapter(folder, 0)
    return open_lineup("nano", "nano", [folder])


def written(lineup: Lineup, asked: Sequence[tuple[str, str]], cache_bytes: int) -> list[tuple[str, int]]:
    """(text, cached tokens) of the answers to (model, question), which all wait before the writer starts."""
    heard: Mapping[int, list[Event]] = {place: [] for place in range(len(asked))}
    failures: list[str] = []
    writer = Writer(lineup, len(asked), cache_bytes, failures.append)
    encode = lineup.sessions[lineup.base].loaded.tokenizer.encode
    for place, (model, question) in enumerate(asked):
        writer.submit(
            Task(
                model=model,
                prompt=tuple(encode(SYSTEM + question)),
                options=OPTIONS,
                goes_on=False,
                grammar=None,
                deadline=time.monotonic() + 300,
                deliver=heard[place].append,
            )
        )
    writer.start()
    end = time.monotonic() + 300
    while time.monotonic() < end and not all(
        events and isinstance(events[-1], Report | ApiError) for events in heard.values()
    ):
        time.sleep(0.01)
    writer.close()
    assert not failures
    reports: list[Any] = [events[-1] for events in heard.values()]
    return [(report.written.written, report.cached_tokens) for report in reports]


@pytest.mark.parametrize("cache_bytes", [0, 1 << 28])
def test_a_common_opening_is_read_once_for_each_reader(
    lineup: Lineup, cache_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [(model, question) for model in ("nano", "nano:first") for question in QUESTIONS[:3]]
    alone = [written(lineup, [one], 0)[0] for one in asked]
    assert {cached for _, cached in alone} == {0}
    read: list[int] = []

    def noted(model: nn.Module, tokens: Sequence[int], known: Prefix | None = None) -> Prefix:
        read.append(len(tokens))
        return compute_prefix(model, tokens, known)

    monkeypatch.setattr(writing, "compute_prefix", noted)
    together = written(lineup, asked, cache_bytes)
    assert [text for text, _ in together] == [text for text, _ in alone]
    assert len(read) == 2
    assert read[0] == read[1] >= 16
    assert {cached for _, cached in together} == {read[0]}


def test_prompts_that_differ_from_the_start_share_nothing(lineup: Lineup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.serving.test_writer.SYSTEM", "")
    monkeypatch.setattr(writing, "compute_prefix", lambda *_: pytest.fail("nothing is shared"))
    asked = [("nano", question) for question in QUESTIONS]
    assert {cached for _, cached in written(lineup, asked, 1 << 28)} == {0}


def test_one_request_reads_no_opening(lineup: Lineup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "compute_prefix", lambda *_: pytest.fail("there is one request"))
    assert written(lineup, [("nano", QUESTIONS[0])], 1 << 28)[0][1] == 0
