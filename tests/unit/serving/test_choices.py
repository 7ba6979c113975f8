"""Several choices, the chances of tokens, calls of functions, and vectors."""

from __future__ import annotations

import base64
import json
import math
import socket
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.generation.answer_stream import Text
from mlx_loopai.generation.batch import Chance
from mlx_loopai.models.load import load_tokenizer
from mlx_loopai.serving.reply import ChoiceStream, Reply, Told
from mlx_loopai.serving.request_body import parse
from mlx_loopai.serving.shapes import ApiError, Report
from mlx_loopai.serving.tool_calls import Call, CallForm, CallReader
from tests.unit.serving.conftest import DEFAULTS, Running, Serving, counting_embedder

QWEN = Path(__file__).parents[4] / "shared" / "models" / "qwen2.5-tokenizer"
QUESTION = "호랑이 이야기를 들려줘."
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
SAID: dict[str, Any] = {"temperature": 1.2, "seed": 7, "max_tokens": 12, "scripts": "off", "filter": False}


def streamed(server: Running, **fields: Any) -> list[dict[str, Any]]:
    lines = server.ask(QUESTION, stream=True, **fields).text.split("\n\n")
    assert lines[-2] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def test_choices_differ_and_a_seed_gives_them_again(server: Running) -> None:
    found = server.ask(QUESTION, n=3, **SAID).json()
    texts = [choice["message"]["content"] for choice in found["choices"]]
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    alone = server.ask(QUESTION, **SAID).json()
    assert alone["choices"][0]["message"]["content"] == texts[0]
    usage = found["usage"]
    assert usage["prompt_tokens"] == alone["usage"]["prompt_tokens"]
    assert usage["completion_tokens"] == 36
    assert [choice["mlx_loopai"]["seed"] for choice in found["choices"]] == [7, 7, 7]
    chunks = streamed(server, n=3, stream_options={"include_usage": True}, **SAID)
    pieces: dict[int, str] = dict.fromkeys(range(3), "")
    for chunk in chunks:
        for choice in chunk["choices"]:
            pieces[choice["index"]] += choice["delta"].get("content") or ""
    assert list(pieces.values()) == texts
    assert chunks[-1]["usage"] == usage | {"prompt_tokens_details": chunks[-1]["usage"]["prompt_tokens_details"]}
    server.wait_until_free()


def test_chances_of_tokens(server: Running) -> None:
    asked = SAID | {"temperature": 0, "logprobs": True, "top_logprobs": 4}
    choice = server.ask(QUESTION, **asked).json()["choices"][0]
    entries = choice["logprobs"]["content"]
    assert bytes(byte for entry in entries for byte in entry["bytes"]).decode() == choice["message"]["content"]
    for entry in entries:
        assert len(entry["top_logprobs"]) == 4
        likeliest = [one["logprob"] for one in entry["top_logprobs"]]
        assert likeliest == sorted(likeliest, reverse=True)
        assert entry["logprob"] == likeliest[0]  # greedy
        assert sum(map(math.exp, likeliest)) <= 1 + 1e-5
    chunks = streamed(server, **asked)
    told = [entry for chunk in chunks for entry in (chunk["choices"][0]["logprobs"] or {}).get("content", ())]
    assert [entry["token"] for entry in told] == [entry["token"] for entry in entries]
    plain = httpx.post(
        f"{server.url}/v1/completions", json={"prompt": "옛날에", "logprobs": 2} | SAID, timeout=60
    ).json()["choices"][0]
    found = plain["logprobs"]
    assert len(found["tokens"]) == len(found["token_logprobs"]) == len(found["text_offset"]) == 12
    assert all(len(one) <= 2 for one in found["top_logprobs"])
    # What the scripts rule out has no chance at all.
    ruled = server.ask(QUESTION, **asked | {"scripts": "ko"}).json()["choices"][0]["logprobs"]["content"]
    assert not any(
        one["token"].isascii() and one["token"].isalpha() for entry in ruled for one in entry["top_logprobs"]
    )


def test_what_cannot_be_asked_for(server: Running) -> None:
    for fields, place in (
        ({"n": 9}, "n"),
        ({"n": 0}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [WEATHER]}, "messages"),  # nano's template knows no tools
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [WEATHER], "response_format": {"type": "json_object"}}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
    ):
        found = server.ask(**fields)
        assert (found.status_code, found.json()["error"]["param"]) == (400, place), found.text
    assert httpx.post(f"{server.url}/v1/embeddings", json={"input": "가"}).status_code == 404


FORM = CallForm("<tool_call>", "</tool_call>", lambda text, tools: json.loads(text), "[]")
CALLED = '네.\n<tool_call>\n{"name": "weather", "arguments": {"city": "서울"}}\n</tool_call>\n<tool_call>{"name": "b"}</tool_call>'


def read(reader: CallReader, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    parts = [part for piece in pieces for part in reader.feed(piece)] + reader.close()
    calls = [(part.name, json.loads(part.arguments)) for part in parts if isinstance(part, Call)]
    return "".join(part for part in parts if isinstance(part, str)), calls


@given(st.lists(st.integers(0, len(CALLED)), max_size=12))
def test_calls_are_found_however_the_text_is_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(CALLED)]
    pieces = [CALLED[a:b] for a, b in pairwise(places)]
    assert read(CallReader(FORM), pieces) == ("네.\n", [("weather", {"city": "서울"}), ("b", {})])


@pytest.mark.parametrize(
    "text", ["<tool_call>{broken</tool_call> 끝", "가 < 나 <tool_cal", "<tool_call>[1]</tool_call>"]
)
def test_what_is_no_call_is_text(text: str) -> None:
    reader = CallReader(FORM)
    assert read(reader, list(text)) == (text, [])
    assert not reader.called
    assert read(CallReader(None), [CALLED]) == (CALLED, [])


def report(finished: bool = True) -> Report:
    written = Text(
        text="", written="", finished=finished, prompt_tokens=3, tokens=(1, 2), seconds=1.0, seed=0, scripts="off",
        masked_mass=0.0, argmax_masked=0.0,
    )  # fmt: skip
    return Report(written)


def test_calls_in_the_shape_of_the_api() -> None:
    reply = Reply("m", True, calls=FORM)
    (choice,) = reply.whole([Told(CALLED, (), report())])["choices"]
    message = choice["message"]
    assert (message["content"], choice["finish_reason"]) == ("네.\n", "tool_calls")
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["weather", "b"]
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"city": "서울"}
    stream = ChoiceStream(reply, 0)
    lines = stream.piece(CALLED[:20], [Chance(1, -0.5, ())]) + stream.piece(CALLED[20:], ()) + stream.ending(report())
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines.strip().split("\n\n")]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert [call["index"] for delta in deltas for call in delta.get("tool_calls", ())] == [0, 1]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    cut = reply.whole([Told("가", (), report(finished=False))])["choices"][0]
    assert (cut["finish_reason"], "tool_calls" in cut["message"]) == ("length", False)


def test_turns_with_calls_and_their_results() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "서울"}'}}
    turns = [
        {"role": "user", "content": "날씨?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "맑음"},
    ]
    asked = parse(json.dumps({"messages": turns, "tools": [WEATHER]}).encode(), True, DEFAULTS)
    _, called, result = asked.prompt
    assert json.loads(called.tool_calls) == [{"name": "weather", "arguments": {"city": "서울"}}]  # type: ignore[union-attr]
    assert (result.role, result.name, result.content) == ("tool", "weather", "맑음")  # type: ignore[union-attr]
    assert json.loads(asked.tools)[0]["function"]["name"] == "weather"
    assert (
        asked.options.scripts,
        parse(b'{"messages": [{"role": "user", "content": "?"}]}', True, DEFAULTS).tools,
    ) == (
        "off",
        "",
    )
    call["function"]["arguments"] = "[1]"  # type: ignore[index]
    with pytest.raises(ApiError, match="must be a JSON object"):
        parse(json.dumps({"messages": turns, "tools": [WEATHER]}).encode(), True, DEFAULTS)


@pytest.mark.skipif(not QWEN.exists(), reason="needs ../shared/models/qwen2.5-tokenizer")
def test_a_template_shows_the_functions() -> None:
    tokenizer = load_tokenizer(QWEN)
    turns = parse(b'{"messages": [{"role": "user", "content": "?"}]}', True, DEFAULTS).prompt
    tools = json.dumps([WEATHER])
    ids = ChatEncoder(tokenizer).prompt_ids(turns, tools=tools)  # type: ignore[arg-type]
    expected = tokenizer.apply_chat_template(
        [{"role": "user", "content": "?"}], tools=[WEATHER], add_generation_prompt=True
    )
    assert tokenizer.decode(ids) == tokenizer.decode(expected)
    form = CallForm.of(tokenizer, tools)
    assert form is not None
    assert form.calls('\n{"name": "weather", "arguments": {}}\n')[0].name == "weather"  # type: ignore[index]
    assert CallForm.of(tokenizer, "") is None


def test_vectors(serving: Serving) -> None:
    embedder = counting_embedder()
    with serving(embedder=("counts", embedder)) as server:

        def asked(status: int = 200, **body: Any) -> dict[str, Any]:
            answer = httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=60)
            assert answer.status_code == status, answer.text
            return answer.json()

        texts = ["가", "나나", *["가나"] * 9]
        found = asked(input=texts, model="counts")
        assert [one["index"] for one in found["data"]] == list(range(11))
        np.testing.assert_allclose([one["embedding"] for one in found["data"]], embedder.passages(texts), rtol=1e-6)
        assert found["usage"] == {"prompt_tokens": 21, "total_tokens": 21}
        packed = asked(input="나나", encoding_format="base64")["data"][0]["embedding"]
        np.testing.assert_array_equal(np.frombuffer(base64.b64decode(packed), "<f4"), embedder.passages(["나나"])[0])
        assert "counts" in [model["id"] for model in httpx.get(f"{server.url}/v1/models").json()["data"]]
        assert asked(404, input="가", model="nano")["error"]["code"] == "model_not_found"
        assert asked(400, input=[])["error"]["param"] == "input"
        assert asked(400, input=[1, 2])["error"]["param"].startswith("input")
        assert asked(400, input="가", dimensions=3)["error"]["param"] == "dimensions"
        # What cannot be computed ends no answer.
        assert asked(500, input="깨짐")["error"]["type"] == "server_error"
        assert server.ask(max_tokens=2).status_code == 200


def test_a_client_that_sends_its_headers_slowly_is_cut_off(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_loopai.serving.connection import PatientProtocol

    monkeypatch.setattr(PatientProtocol, "head_seconds", 0.4)
    with serving() as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=20) as slow:
            for byte in b"GET /health HTTP/1.1\r\nX":
                try:
                    slow.sendall(bytes([byte]))
                except OSError:
                    break
                time.sleep(0.05)
            assert slow.recv(200).startswith(b"HTTP/1.1 408")
        # An answer may take longer than its headers, and a connection is used again.
        with httpx.Client(timeout=60) as client:
            for _ in range(2):
                assert client.get(f"{server.url}/health").status_code == 200
        assert server.ask(QUESTION, max_tokens=200, scripts="off").status_code == 200


def test_tools_and_their_turns_need_each_other(server: Running) -> None:
    turns = [{"role": "user", "content": "?"}, {"role": "tool", "tool_call_id": "x", "content": "맑음"}]
    assert "`tools`" in server.ask(messages=turns).json()["error"]["message"]
