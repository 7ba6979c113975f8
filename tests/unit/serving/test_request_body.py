from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.config import GenerationOptions
from mlx_loopai.data.records import Message
from mlx_loopai.serving.request_body import Asked, Defaults, parse
from mlx_loopai.serving.shapes import ApiError

DEFAULTS = Defaults(("nano",), GenerationOptions(scripts="ko", temperature=0.5, top_p=0.8, max_tokens=100))
ASKED = [{"role": "user", "content": "안녕?"}]


def chat(**fields: Any) -> Asked:
    return parse(json.dumps({"messages": ASKED} | fields).encode(), True, DEFAULTS)


def refused(body: bytes | dict[str, Any], is_chat: bool = True) -> ApiError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(ApiError) as caught:
        parse(raw, is_chat, DEFAULTS)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_request_that_says_nothing_gets_the_servers_settings() -> None:
    asked = chat()
    assert asked.prompt == (Message("user", "안녕?"),)
    assert (asked.options.temperature, asked.options.top_p, asked.options.max_tokens) == (0.5, 0.8, 100)
    assert (asked.options.scripts, asked.options.filter, asked.options.stop) == ("ko", None, ())
    # The server's limit is no wish of the request's: what the context leaves will do.
    assert (asked.options.limits_length, asked.stream, asked.with_usage) == (False, False, False)
    assert len({chat().options.seed for _ in range(5)}) > 1


def test_what_a_request_says_holds() -> None:
    options = {"temperature": 0, "top_p": 1, "top_k": 5, "repetition_penalty": 1.1, "seed": 7}
    more = {"stop": "끝", "stream": True, "stream_options": {"include_usage": True}, "scripts": "off"}
    asked = chat(model="nano", max_completion_tokens=9, user="me", unheard_of=3, n=1, tools=None, **options, **more)
    assert {name: getattr(asked.options, name) for name in options} == options
    assert asked.options.max_tokens == 9
    assert (asked.options.limits_length, asked.stream, asked.with_usage) == (True, True, True)
    assert (asked.options.stop, asked.options.scripts) == (("끝",), "off")
    assert chat(filter=True).options.filter is True
    assert chat(filter=False).options.filter is False
    assert chat(max_tokens=101).options.max_tokens == 100  # no answer is longer than the server's limit


def test_messages() -> None:
    parts = [{"type": "text", "text": "하나"}, {"type": "text", "text": "둘"}]
    turns = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "답"},
        {"role": "developer", "content": "짧게."},
        {"role": "user", "content": "또?"},
        {"role": "system", "content": "높임말로."},
    ]
    assert chat(messages=turns).prompt == (
        Message("system", "짧게.\n\n높임말로."),
        Message("user", "하나\n둘"),
        Message("assistant", "답"),
        Message("user", "또?"),
    )


def test_a_turn_without_text() -> None:
    turns = [{"role": "user", "content": "하나"}, {"role": "assistant", "content": None}, *ASKED]
    assert [message.content for message in chat(messages=turns).prompt] == ["하나", "", "안녕?"]
    error = refused({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]})
    place = "messages.0.content.0.image_url.url"
    assert str(error) == f"{place}: only data: URLs of PNG, JPEG or WebP pictures in base64 are read"
    assert "the last turn is empty" in str(refused({"messages": [{"role": "user", "content": None}]}))


def test_text() -> None:
    assert parse(b'{"prompt": "abc"}', False, DEFAULTS).prompt == "abc"
    assert refused({"messages": ASKED}, is_chat=False).param == "prompt"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "function", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages"),
        ({"messages": [*ASKED, {"role": "assistant", "content": "네"}]}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0.image_url.url",
        ),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 1e-300}, None),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"repetition_penalty": 1e-38}, "repetition_penalty"),
        ({"seed": 1 << 63}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": 3}, None),
        ({"n": 9}, "n"),
        ({"tools": [{}]}, "tools.0.type"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"logprobs": 3}, "logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"scripts": "klingon"}, "scripts"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], param: str | None) -> None:
    error = refused({"messages": ASKED} | fields)
    assert error.status == 400
    assert param is None or error.param == param
    assert error.body["error"]["type"] == "invalid_request_error"


def test_another_model() -> None:
    error = refused({"messages": ASKED, "model": "gpt"})
    assert (error.status, error.code) == (404, "model_not_found")
    assert "nano" in str(error)


NOT_REQUESTS = [
    b"", b"\xff", b"null", b"3", b"[]", b"{", b'{"messages": NaN}', b"[" * 100_000, b'{"a":' * 10_000 + b"1",
    b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b'{"temperature": 1e999, "messages": []}',
    b"9" * 10_000,
]  # fmt: skip


@pytest.mark.parametrize("body", NOT_REQUESTS, ids=range(len(NOT_REQUESTS)))
def test_bodies_that_are_no_requests(body: bytes) -> None:
    assert refused(body).status == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
NAMES = ["model", "temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed", "stop", "stream"]
NAMES += ["stream_options", "scripts", "code_fences", "filter", "messages", "prompt", "n", "tools", "logit_bias"]
TURNS = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": JSON}))


@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=5), TURNS | JSON, st.booleans())
def test_any_json_is_a_request_or_a_400(fields: dict[str, Any], messages: Any, is_chat: bool) -> None:
    try:
        asked = parse(json.dumps({"messages": messages} | fields).encode(), is_chat, DEFAULTS)
    except ApiError as error:
        assert error.status in (400, 404)
    else:
        assert asked.options.max_tokens <= DEFAULTS.options.max_tokens


@given(st.binary(max_size=60))
def test_any_bytes_are_a_request_or_a_400(body: bytes) -> None:
    try:
        parse(body, True, DEFAULTS)
    except ApiError as error:
        assert error.status == 400


def test_an_answer_to_go_on_with() -> None:
    begun = [*ASKED, {"role": "assistant", "content": "안녕하"}]
    asked = chat(messages=begun, continue_final_message=True)
    assert (asked.prompt, asked.begun) == ((Message("user", "안녕?"),), "안녕하")
    assert refused({"messages": ASKED, "continue_final_message": True}).param == "messages"
    assert "the last turn must be the user's" in str(refused({"messages": begun}))


def test_the_form_of_an_answer() -> None:
    assert chat(response_format={"type": "text"}).schema is None
    assert chat(response_format={"type": "json_object"}).schema == {"type": "object"}
    named = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}
    assert chat(response_format=named).schema == {"type": "array"}
