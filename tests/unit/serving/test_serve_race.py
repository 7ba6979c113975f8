"""The race of the servers: what it says to them, what it reads of their events, and what it counts."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from mlx_loopai.generation.session import Session
from tests.bench_programs import bench_program
from tests.unit.serving.conftest import Serving


@pytest.fixture(scope="module")
def race() -> ModuleType:
    return bench_program("serve_race")


@pytest.mark.parametrize("turns", [1, 3])
def test_no_two_requests_are_alike(race: ModuleType, turns: int) -> None:
    found = race.chats(200, turns) + race.chats(16, turns, first=1000)
    assert {len(chat) for chat in found} == {turns}
    assert len({text for chat in found for text in chat}) == 216 * turns


def test_a_card_has_the_length_that_was_asked_for(race: ModuleType, nano: Session) -> None:
    tokenizer = nano.loaded.tokenizer
    length = race.Length(tokenizer, 300)
    one, other = (race.card(length, number) for number in (0, 1))
    for text in (one, other):
        assert 300 <= len(tokenizer.encode(text)) < 340
    assert one.splitlines()[0] != other.splitlines()[0]
    assert race.card(race.Length(tokenizer, 0), 1) == ""


def test_a_chat_goes_on_with_what_was_answered(race: ModuleType, nano: Session, serving: Serving) -> None:
    system = race.card(race.Length(nano.loaded.tokenizer, 100), 0)
    [says] = race.chats(1, 2)
    with serving() as running:
        server = race.Server("mlx-loopai", (), f"{running.url}/v1")
        first, second = race.talk(server, says, race.Asking(12, system=system))
        asked = [
            {"role": "system", "content": system},
            {"role": "user", "content": says[0]},
            {"role": "assistant", "content": first.text},
            {"role": "user", "content": says[1]},
        ]
        whole = running.ask(messages=asked, max_tokens=12).json()
    assert (first.turn, second.turn) == (1, 2)
    assert second.text == whole["choices"][0]["message"]["content"]
    assert second.prompt_tokens == whole["usage"]["prompt_tokens"]
    assert first.prompt_tokens <= second.cached_tokens < second.prompt_tokens
    assert 0 < first.first_s <= first.seconds
    assert 0 < first.tokens <= 12


def answer(race: ModuleType, **said: Any) -> Any:
    usual = {"prompt_tokens": 10, "cached_tokens": 4, "tokens": 8, "text": "가"}
    return race.Answer(**usual | {"turn": 1, "seconds": 2.0, "first_s": 1.0} | said)


def test_what_is_counted(race: ModuleType) -> None:
    answers = (answer(race), answer(race, turn=2, seconds=4.0, first_s=3.0, cached_tokens=8))
    rounds = [
        race.Round(name, clients=2, seconds=seconds, cpu_s=cpu_s, answers=answers)
        for name, seconds, cpu_s in (("mlx-loopai", 2.0, 1.0), ("mlx-lm", 4.0, 3.0)) * 2
    ]
    own, theirs = race.summary(rounds, "requests")
    assert (own["answers_per_s"], theirs["answers_per_s"]) == (1.0, 0.5)
    assert (own["times_mlx_lm"], own["times_mlx_lm_in_cpu_time"]) == (2.0, 3.0)
    assert own["cpu_s_per_answer"] == 0.5
    assert [turn["first_p50_s"] for turn in own["by_turn"]] == [1.0, 3.0]
    assert [turn["cached_tokens"] for turn in own["by_turn"]] == [4, 8]
    assert "text" not in race.told(rounds[0])["answers"][0]


def test_events(race: ModuleType) -> None:
    lines = [b": still reading\n", b"\n", b'data: {"choices": []}\n', b"data: [DONE]\n"]
    assert list(race.events(lines)) == [{"choices": []}]
