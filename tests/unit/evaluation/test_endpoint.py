"""The judge's endpoint when it is well, busy, broken, silent or refuses."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.evaluation.endpoint import TRIES, Endpoint
from tests.unit.evaluation.judges import Reply, judge_server

QUESTION = [{"role": "user", "content": "어느 글이 낫습니까? \ud800"}]


def ask(url: str, key: str = "", timeout_s: float = 10.0) -> tuple[str, list[float]]:
    waits: list[float] = []
    return Endpoint(url, "심판", key=key, timeout_s=timeout_s).chat(QUESTION, waits.append), waits


def test_one_question_one_answer() -> None:
    with judge_server(lambda body, number: Reply("답")) as served:
        assert ask(served.url + "/", key="secret") == ("답", [])
    assert served.keys == ["Bearer secret"]
    (body,) = served.requests
    assert (body["model"], body["messages"], body["temperature"]) == ("심판", QUESTION, 0)


def test_no_key_is_sent_without_one() -> None:
    with judge_server(lambda body, number: Reply("답")) as served:
        ask(served.url)
    assert served.keys == [None]


@pytest.mark.parametrize(
    ("bad", "wait_s"),
    [
        (Reply(b"slow down", 429, {"Retry-After": "7"}), 7.0),
        (Reply(b"slow down", 429, {"Retry-After": "1e9"}), 60.0),
        (Reply(b"slow down", 429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), 1.0),
        (Reply(b"", 503), 1.0),
        (Reply(b"<html>proxy</html>"), 1.0),
        (Reply(b'{"choices": []}'), 1.0),
        (Reply(b"[" * 100_000), 1.0),
        (Reply(status=0), 1.0),
    ],
)
def test_a_server_in_trouble_is_asked_again(bad: Reply, wait_s: float) -> None:
    with judge_server(lambda body, number: Reply("답") if number else bad) as served:
        assert ask(served.url) == ("답", [wait_s])


def test_a_server_that_stays_busy() -> None:
    with judge_server(lambda body, number: Reply(b"too many", 429)) as served:
        with pytest.raises(LoopaiError, match=rf"no answer after {TRIES} tries: HTTP 429: too many") as caught:
            ask(served.url)
        assert not isinstance(caught.value, InputError)
    assert len(served.requests) == TRIES


def test_a_silent_server() -> None:
    wake = threading.Event()

    def silent(body: dict[str, Any], number: int) -> Reply:
        wake.wait(30)
        return Reply(status=0)

    with judge_server(silent) as served:
        with pytest.raises(LoopaiError, match="timed out"):
            ask(served.url, timeout_s=0.05)
        wake.set()


def test_nobody_there() -> None:
    with judge_server(lambda body, number: Reply("")) as served:
        pass
    with pytest.raises(LoopaiError, match="no answer after"):
        ask(served.url)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_not_repeated(status: int) -> None:
    with (
        judge_server(lambda body, number: Reply(b"no such model", status)) as served,
        pytest.raises(InputError, match=f"HTTP {status}: no such model; check"),
    ):
        ask(served.url)
    assert len(served.requests) == 1


def test_a_redirect_is_not_followed() -> None:
    with (
        judge_server(lambda body, number: Reply("elsewhere")) as other,
        judge_server(lambda body, number: Reply(b"", 302, {"Location": other.url})) as served,
        pytest.raises(InputError, match="HTTP 302"),
    ):
        ask(served.url, key="secret")
    assert other.requests == []


@pytest.mark.parametrize("url", ["", "judge", "file:///etc/passwd", "ftp://a/v1", "http://"])
def test_only_http_addresses(url: str) -> None:
    with pytest.raises(InputError, match="`judge_url`"):
        Endpoint(url, "m")


def test_a_key_travels_encrypted_or_stays_on_this_machine() -> None:
    with pytest.raises(InputError, match="unencrypted"):
        Endpoint("http://judge.example/v1", "m", "secret")
    assert Endpoint("https://judge.example/v1", "m", "secret").key
    assert Endpoint("http://localhost:1/v1", "m", "secret").key
