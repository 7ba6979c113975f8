"""The server as its clients see it: over a socket, on nano."""

from __future__ import annotations

import dataclasses
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlx_loopai.data.records import Message
from mlx_loopai.generation.constraint import build_constraint
from mlx_loopai.generation.engine import SamplingOptions, generate_stream
from mlx_loopai.generation.prompts import Prompt
from mlx_loopai.generation.session import Session
from mlx_loopai.retrieval.index import Index, build_index, open_index
from mlx_loopai.text.alphabet import Scripts
from tests.unit.serving.conftest import DEFAULTS, Running, Serving

QUESTIONS = ["한국의 수도는?", "호랑이 이야기를 들려줘.", "안녕하세요?", "물은 몇 도에서 끓어?", "시를 한 편 써 줘."]
LONG: dict[str, Any] = {"max_tokens": 400, "temperature": 1.5, "scripts": "off", "seed": 3}


def expected(session: Session, question: str, max_tokens: int) -> str:
    ids = session.prompt_ids(Prompt((Message("user", question),), "test"))
    options = SamplingOptions(temperature=0, max_tokens=max_tokens)
    pieces = generate_stream(
        session.loaded, ids, options, build_constraint(session.loaded, Scripts.parse(DEFAULTS.options.scripts))
    )
    return "".join(piece.text for piece in pieces)


def content(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def error(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    found = response.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


def test_an_answer(server: Running) -> None:
    response = server.ask(seed=5)
    assert "서울" in content(response)
    document = response.json()
    assert document["object"] == "chat.completion"
    assert document["choices"][0]["finish_reason"] == "stop"
    usage = document["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    own = document["mlx_loopai"]
    assert (own["seed"], own["scripts"], own["purity"]) == (5, "ko+loanwords+gloss", 1.0)
    assert server.log[-1].startswith("POST /v1/chat/completions 200")
    assert "수도" not in " ".join(server.log)


def test_answers_written_together_are_the_answers_written_alone(server: Running, nano: Session) -> None:
    with ThreadPoolExecutor(len(QUESTIONS)) as clients:
        answers = list(clients.map(lambda question: content(server.ask(question, filter=False)), QUESTIONS))
    assert answers == [expected(nano, question, 30) for question in QUESTIONS]


def test_a_seed_gives_the_same_text(server: Running) -> None:
    asked: dict[str, Any] = {"temperature": 1.2, "seed": 11}
    first, again = content(server.ask(QUESTIONS[1], **asked)), content(server.ask(QUESTIONS[1], **asked))
    other = content(server.ask(QUESTIONS[1], temperature=1.2, seed=12))
    assert first == again != other


def test_stop_strings_scripts_and_length(server: Running) -> None:
    stopped = server.ask(stop=["서울", "zzz"])
    assert content(stopped).rstrip().endswith("수도는")
    assert stopped.json()["choices"][0]["finish_reason"] == "stop"
    cut = server.ask(QUESTIONS[1], max_tokens=3)
    assert cut.json()["choices"][0]["finish_reason"] == "length"
    assert cut.json()["usage"]["completion_tokens"] == 3
    assert server.ask(scripts="off").json()["mlx_loopai"]["scripts"] == "off"


def test_an_answer_is_gone_on_with_where_it_was_cut(server: Running) -> None:
    whole = content(server.ask(max_tokens=40))
    begun = content(server.ask(max_tokens=3))
    turns = [{"role": "user", "content": QUESTIONS[0]}, {"role": "assistant", "content": begun}]
    rest = content(server.ask(messages=turns, continue_final_message=True, max_tokens=40))
    assert 0 < len(begun) < len(whole)
    assert begun + rest == whole


def test_json_in_a_form_with_korean_in_it(server: Running) -> None:
    pytest.importorskip("llguidance", reason="the extra `grammar` is not installed")
    properties = {"name": {"type": "string", "maxLength": 12}, "kind": {"enum": ["호랑이", "곰"]}}
    schema = {"type": "object", "properties": properties, "required": ["name", "kind"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "animal", "strict": True, "schema": schema}}
    asked: dict[str, Any] = {"scripts": "ko", "temperature": 1.2, "seed": 4, "max_tokens": 100}
    found = json.loads(content(server.ask(QUESTIONS[1], response_format=form, **asked)))
    assert found["kind"] in ("호랑이", "곰")
    assert not re.search("[A-Za-z]", found["name"])
    wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "animal"}}}
    assert error(server.ask(response_format=wrong), 400)["param"] == "response_format"
    missing = error(server.ask(response_format={"type": "json_schema"}), 400)
    assert "json_schema is missing" in missing["message"]
    assert content(server.ask(QUESTIONS[1], response_format={"type": "json_object"}, **asked)).startswith("{")


def test_a_chat_of_too_many_turns_is_not_read(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "prompt_ids", lambda *arguments, **named: pytest.fail("it was read"))
    turns = [{"role": role, "content": "가"} for _ in range(600) for role in ("user", "assistant")]
    found = error(server.ask(messages=[*turns, {"role": "user", "content": "가"}]), 400)
    assert found["code"] == "context_length_exceeded"


def test_reading_a_prompt_counts_against_the_time_limit(
    serving: Serving, nano: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, released = Session.prompt_ids, threading.Event()

    def slow(*arguments: Any, **named: Any) -> list[int]:
        released.wait(30)
        return read(*arguments, **named)

    monkeypatch.setattr(Session, "prompt_ids", slow)
    with serving(time_limit_s=0.3) as server:
        late = server.ask()
        assert error(late, 503)["code"] == "timeout"
        assert "retry-after" in late.headers
        released.set()
        server.wait_until_free()


def test_a_server_that_stops_tells_its_clients(serving: Serving, endless: Session) -> None:
    stops: list[Callable[[], None]] = []
    with serving(endless, concurrent=1, queue=3, on_app=lambda app: stops.append(app.state.stop)) as server:
        with ThreadPoolExecutor(3) as clients:
            streamed = clients.submit(server.ask, stream=True, **LONG)
            while not server.health()["answers"]:
                time.sleep(0.02)
            waiting = clients.submit(server.ask, **LONG)
            while server.health()["answers"] < 2:
                time.sleep(0.02)
            stops[0]()
            assert error(waiting.result(), 503)["type"] == "server_error"
            events = streamed.result().text.split("\n\n")
        assert "stopping" in json.loads(events[-3].removeprefix("data: "))["error"]["message"]
        assert events[-2] == "data: [DONE]"
        error(server.ask(), 503)


def test_the_next_turn_reads_only_what_is_new(serving: Serving) -> None:
    long = " ".join(["등대지기는 밤마다 불을 켠다."] * 12)
    first = [{"role": "user", "content": long}]
    with serving() as server, serving(cache_bytes=0) as forgetful, ThreadPoolExecutor(2) as clients:

        def cached(answer: httpx.Response) -> int:
            return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

        begun = server.ask(messages=first)
        assert cached(begun) == 0
        turns = [*first, {"role": "assistant", "content": content(begun)}]
        # Two that go on differently, at once.
        second = [[*turns, {"role": "user", "content": question}] for question in QUESTIONS[:2]]
        answers = list(clients.map(lambda messages: server.ask(messages=messages), second))
        assert [content(answer) for answer in answers] == [content(forgetful.ask(messages=one)) for one in second]
        for answer in answers:
            assert begun.json()["usage"]["prompt_tokens"] < cached(answer) < answer.json()["usage"]["prompt_tokens"]
        assert cached(forgetful.ask(messages=second[0])) == 0
        # An answer that a stop string ended is known too, and another beginning shares nothing.
        assert cached(server.ask(messages=second[0], stop=["니다"])) > 60
        assert cached(server.ask(QUESTIONS[3])) == 0


def test_a_plain_completion(server: Running) -> None:
    body = {"prompt": "옛날 옛적에", "max_tokens": 5, "temperature": 0}
    document = httpx.post(f"{server.url}/v1/completions", json=body).json()
    assert document["object"] == "text_completion"
    assert document["choices"][0]["text"]


@pytest.fixture
def passages(tmp_path: Path) -> Iterator[Index]:
    (tmp_path / "sea.txt").write_text("등대지기는 밤마다 불을 켠다.", encoding="utf-8")
    build_index([tmp_path / "sea.txt"], tmp_path / "index")
    with open_index(tmp_path / "index", by_meaning=False) as index:
        yield index


def test_a_chat_is_shown_passages_and_cites_them(serving: Serving, passages: Index) -> None:
    with serving(retrieve=lambda query: passages.search(query, 3)) as running:
        shown, bare = running.ask("등대지기?").json(), running.ask("xyz").json()
        plain = httpx.post(f"{running.url}/v1/completions", json={"prompt": "등대지기", "max_tokens": 2}, timeout=60)
        streamed = running.ask("등대지기?", stream=True).text
    (source,) = shown["mlx_loopai"]["sources"]
    assert (source["text"], source["line"]) == ("등대지기는 밤마다 불을 켠다.", 1)
    assert shown["usage"]["prompt_tokens"] > bare["usage"]["prompt_tokens"] + 20
    assert bare["mlx_loopai"]["sources"] == []
    assert "sources" not in plain.json()["mlx_loopai"]
    assert json.loads(streamed.split("data: ")[-2])["mlx_loopai"]["sources"] == [source]


def test_passages_leave_room_for_the_answer(serving: Serving, passages: Index) -> None:
    with serving(retrieve=lambda query: passages.search(query, 3), context_tokens=110) as running:
        asked = running.ask("등대지기?", max_tokens=70)
        assert asked.status_code == 200
        assert asked.json()["mlx_loopai"]["sources"] == []


def test_models_and_health(server: Running) -> None:
    listed = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["nano"]
    assert httpx.get(f"{server.url}/v1/models/nano").json() == listed[0]
    error(httpx.get(f"{server.url}/v1/models/a/b"), 404)
    assert server.health()["status"] == "ok"


def test_what_is_turned_away(server: Running) -> None:
    url = f"{server.url}/v1/chat/completions"
    body = b'{"messages": [{"role": "user", "content": "?"}]}'
    error(httpx.post(url, content=b"{", headers={"Content-Type": "application/json"}), 400)
    error(httpx.post(url, content=body, headers={"Content-Type": "text/plain"}), 415)
    error(httpx.get(url), 405)
    error(httpx.get(f"{server.url}/v2"), 404)
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        error(httpx.post(url, content=body, headers={"Content-Type": "application/json"} | headers), 403)
    allowed = httpx.get(f"{server.url}/v1/models", headers={"Origin": server.url})
    assert allowed.status_code == 200
    assert not [name for name in allowed.headers if name.startswith("access-control")]
    found = error(server.ask("가 " * 1200), 400)
    assert found["code"] == "context_length_exceeded"


def test_a_body_that_is_too_large(serving: Serving) -> None:
    with serving(max_body_bytes=200) as server:
        error(server.ask("가" * 100), 413)
        # Without a declared length, too.
        pieces = (b" " * 50 for _ in range(10))
        headers = {"Content-Type": "application/json"}
        error(httpx.post(f"{server.url}/v1/chat/completions", content=pieces, headers=headers), 413)
        assert content(server.ask("?", max_tokens=1)) is not None


def test_a_key(serving: Serving) -> None:
    with serving(api_key="비밀") as server:
        assert error(server.ask(), 401)["type"] == "authentication_error"
        assert error(httpx.get(f"{server.url}/v1/models"), 401)
        headers = {"Authorization": "Bearer 비밀".encode()}
        assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 200
        assert server.health()["status"] == "ok"


def test_an_origin_that_is_allowed(serving: Serving) -> None:
    with serving(origins=("https://my.site",)) as server:
        headers = {"Origin": "https://my.site", "Access-Control-Request-Method": "POST"}
        preflight = httpx.options(f"{server.url}/v1/chat/completions", headers=headers)
        assert preflight.headers["access-control-allow-origin"] == "https://my.site"
        assert httpx.options(f"{server.url}/", headers=headers | {"Origin": "https://other"}).status_code == 403


def test_every_origin_where_that_is_asked_for(serving: Serving) -> None:
    with serving(origins=("*",)) as server:
        answer = httpx.get(f"{server.url}/v1/models", headers={"Origin": "http://localhost:3000"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
        # Another host name than this machine's is still a page that points its own name here.
        assert httpx.get(f"{server.url}/v1/models", headers={"Host": "evil.example"}).status_code == 403


def test_a_server_on_the_network_answers_to_its_own_names(serving: Serving) -> None:
    def asked(server: Running, host: str, **headers: str) -> int:
        return httpx.get(f"{server.url}/v1/models", headers={"Host": host, **headers}).status_code

    with serving(loopback=False) as server:
        own = ("192.168.0.7:8080", "[fe80::1]:8080", "localhost", socket.gethostname(), "127.0.0.1")
        assert [asked(server, host) for host in own] == [200] * len(own)
        assert [asked(server, host) for host in ("evil.example:8080", "127.0.0.1.evil.example", "[", "")] == [403] * 4
    with serving(loopback=False, api_key="k") as server:
        assert asked(server, "proxy.example", Authorization="Bearer k") == 200


def lines(server: Running, **fields: Any) -> list[Any]:
    body = {"messages": [{"role": "user", "content": QUESTIONS[0]}], "stream": True, "temperature": 0} | fields
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        found = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert found[-1] == "[DONE]"
    return [json.loads(line) for line in found[:-1]]


def test_a_stream(server: Running, nano: Session) -> None:
    first, *pieces, last, usage = lines(server, stream_options={"include_usage": True})
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(piece["choices"][0]["delta"]["content"] for piece in pieces)
    assert text == expected(nano, QUESTIONS[0], 400)
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["mlx_loopai"]["purity"] == 1.0
    assert usage["usage"]["completion_tokens"] > 3
    assert usage["choices"] == []


def test_a_full_server_says_when_to_come_back(serving: Serving, endless: Session) -> None:
    with serving(endless, concurrent=1, queue=1) as server, ThreadPoolExecutor(2) as clients:
        answers = [clients.submit(server.ask, **LONG | {"max_tokens": 90}) for _ in range(2)]
        while server.health()["requests"] < 2:
            time.sleep(0.02)
        turned_away = server.ask()
        assert error(turned_away, 429)["type"] == "rate_limit_error"
        assert int(turned_away.headers["retry-after"]) > 0
        assert [answer.result().status_code for answer in answers] == [200, 200]
        assert content(server.ask(max_tokens=1)) is not None


def test_the_time_limit(serving: Serving, endless: Session) -> None:
    with serving(endless, concurrent=1, time_limit_s=0.7) as server, ThreadPoolExecutor(2) as clients:
        first = clients.submit(server.ask, **LONG)
        while not server.health()["answers"]:
            time.sleep(0.02)
        second = clients.submit(server.ask, **LONG)
        answers = [first.result(), second.result()]
    document = answers[0].json()
    assert (answers[0].status_code, document["choices"][0]["finish_reason"]) == (200, "length")
    assert document["mlx_loopai"]["time_limit"]
    # It waited for the first one all the time, or wrote for a moment.
    assert answers[1].status_code in (503, 200)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(serving: Serving, endless: Session, stream: bool) -> None:
    with serving(endless, concurrent=1, queue=0) as server:
        body = json.dumps({"messages": [{"role": "user", "content": "?"}], "stream": stream} | LONG).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        with socket.create_connection(address) as client:
            client.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            while not server.health()["answers"]:
                time.sleep(0.02)
        started = time.monotonic()
        server.wait_until_free()
        left = time.monotonic() - started
        assert content(server.ask(max_tokens=1)) is not None
        # The whole answer takes several times as long.
        assert not any(f"+ {LONG['max_tokens']} tokens" in line for line in server.log), left


def test_a_batch_that_breaks_does_not_end_the_server(serving: Serving, nano: Session) -> None:
    breaks = threading.Event()

    class Breaking:
        """The model, until it breaks once."""

        def __init__(self, model: Any) -> None:
            self._model = model

        def __getattr__(self, name: str) -> Any:
            return getattr(self._model, name)

        def __call__(self, *arguments: Any, **named: Any) -> Any:
            if breaks.is_set():
                breaks.clear()
                raise RuntimeError("out of memory")
            return self._model(*arguments, **named)

    broken = dataclasses.replace(nano.loaded, model=Breaking(nano.loaded.model))
    with serving(dataclasses.replace(nano, loaded=broken)) as server:
        breaks.set()
        assert "memory" not in error(server.ask(), 500)["message"]
        assert any("out of memory" in line for line in server.log)
        assert "서울" in content(server.ask())


def test_the_official_client(server: Running, nano: Session) -> None:
    openai = pytest.importorskip("openai", reason="the extra 'dev' is not installed")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["nano"]
        asked: dict[str, Any] = {"model": "nano", "messages": [{"role": "user", "content": QUESTIONS[0]}]}
        asked |= {"temperature": 0, "extra_body": {"scripts": "ko"}}
        whole = client.chat.completions.create(**asked)
        assert "서울" in whole.choices[0].message.content
        assert whole.usage.completion_tokens > 3
        assert whole.model_extra["mlx_loopai"]["scripts"] == "ko"
        stream = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == (
            whole.choices[0].message.content
        )
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
        with pytest.raises(openai.BadRequestError, match="`scripts` klingon"):
            client.chat.completions.create(**asked | {"extra_body": {"scripts": "klingon"}})
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(**asked | {"model": "gpt"})
        text = client.completions.create(model="nano", prompt="옛날 옛적에", max_tokens=4, temperature=0)
        assert text.choices[0].text
