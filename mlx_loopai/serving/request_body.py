"""Parses a completion request: checks its body field by field, and fills in the server's defaults."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import from_json

from mlx_loopai.config import GenerationOptions, generation_options
from mlx_loopai.data.conversation import PICTURE, showing
from mlx_loopai.data.images import Picture, is_data_url, picture_of_url
from mlx_loopai.data.records import Message
from mlx_loopai.errors import InputError
from mlx_loopai.generation.session import AdapterWhen
from mlx_loopai.language import tr
from mlx_loopai.serving.shapes import ApiError
from mlx_loopai.text.alphabet import Scripts

# What pydantic adds to the location of an error for the members of a union.
_FORMS = re.compile(r"str|list\[.*\]")
_SEEDS = 1 << 31
_LARGEST_SEED = (1 << 63) - 1
_MOST_LIKELIEST = 20

# Unsupported fields that would change the answer, with their values that change nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "modalities": (["text"],),
    "audio": (),
}


@dataclass(frozen=True)
class Defaults:
    """The server's defaults for requests; no answer is longer than `options.max_tokens`.

    models: the names that a request may use, the default first. choices: how many answers it may ask for. switched: the
    models whose adapters have a switch.
    """

    models: tuple[str, ...]
    options: GenerationOptions
    choices: int = 8
    switched: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        return self.models[0]

    def chosen(self, name: str | None) -> str:
        """The model that a request names. Raises: ApiError 404 for another one."""
        if name is not None and name not in self.models:
            reason = f"model {name[:200]!r}: this server has {', '.join(self.models)}"
            raise ApiError(404, reason, "model", "model_not_found")
        return name or self.model

    def switching(self, model: str, when: AdapterWhen | None) -> AdapterWhen | None:
        """`when`, the request's choice of who decides. Raises: ApiError 400 if it asks for a switch `model` lacks."""
        if when == "auto" and model not in self.switched:
            reason = f"adapter_when auto: {model} has no adapter switch; leave it out, or choose a model that has one"
            raise ApiError(400, reason, "adapter_when")
        return when


@dataclass(frozen=True)
class Asked:
    """A request that can be answered. model: one of the server's. prompt: the messages of a chat, or plain text.

    begun: the beginning of a chat's answer, which the model continues. schema: JSON schema of the answer. choices: how
    many answers. likeliest: see `Request`. tools: JSON text of the functions that may be called. adapter_when: whether
    the adapter's switch decides who answers; None: as the server was started.
    """

    model: str
    prompt: tuple[Message, ...] | str
    options: GenerationOptions
    stream: bool
    with_usage: bool
    begun: str = ""
    schema: Mapping[str, Any] | None = None
    choices: int = 1
    likeliest: int | None = None
    tools: str = ""
    adapter_when: AdapterWhen | None = None


class _ImageUrl(BaseModel):
    url: str

    @field_validator("url")
    @classmethod
    def _is_data(cls, url: str) -> str:
        # The server fetches no URL and reads no file of this machine on behalf of a client.
        if not is_data_url(url):
            raise ValueError("only data: URLs of PNG, JPEG or WebP pictures in base64 are read")
        return url


class _Part(BaseModel):
    type: Literal["text", "image_url"]
    text: str = ""
    image_url: _ImageUrl | None = None

    @model_validator(mode="after")
    def _has_its_picture(self) -> _Part:
        if self.type == "image_url" and self.image_url is None:
            raise ValueError('image_url is missing; give {"url": "data:image/png;base64,..."}')
        return self


class _Function(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str


class _Tool(BaseModel):
    type: Literal["function"]
    function: _Function


class _CalledFunction(BaseModel):
    name: str
    arguments: str


class _ToolCall(BaseModel):
    id: str = ""
    function: _CalledFunction

    @field_validator("function")
    @classmethod
    def _has_arguments(cls, function: _CalledFunction) -> _CalledFunction:
        if not isinstance(from_json(function.arguments or "{}"), dict):
            raise ValueError("arguments must be a JSON object, as text")
        return function

    @property
    def as_call(self) -> dict[str, Any]:
        return {"name": self.function.name, "arguments": from_json(self.function.arguments or "{}")}


class _Turn(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None  # clients send null for a turn that only called a tool
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        content = self.content or ""
        return content if isinstance(content, str) else "\n".join(part.text for part in content if part.type == "text")

    @property
    def pictures(self) -> list[str]:
        """The data URLs of its pictures."""
        parts = self.content if isinstance(self.content, list) else []
        return [part.image_url.url for part in parts if part.image_url is not None and part.type == "image_url"]


class _NamedSchema(BaseModel):
    schema_: dict[str, Any] = Field(alias="schema")


class _ResponseFormat(BaseModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _NamedSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> _ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError('json_schema is missing; give {"schema": {...}}')
        return self

    @property
    def schema_given(self) -> Mapping[str, Any] | None:
        if self.type == "text":
            return None
        return self.json_schema.schema_ if self.json_schema and self.type == "json_schema" else {"type": "object"}


class _StreamOptions(BaseModel):
    include_usage: bool | None = None


class _Body(BaseModel):
    model_config = ConfigDict(strict=True)

    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    repetition_guard: float | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=0, le=_LARGEST_SEED)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    scripts: str | None = None
    code_fences: bool | None = None
    filter: bool | None = None
    response_format: _ResponseFormat | None = None
    n: int | None = Field(None, ge=1)
    adapter_when: AdapterWhen | None = None

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens to report at each place; None: no probabilities."""
        raise NotImplementedError


class _ChatBody(_Body):
    messages: list[_Turn] = Field(min_length=1)
    continue_final_message: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=_MOST_LIKELIEST)
    tools: list[_Tool] | None = None
    tool_choice: Literal["none", "auto"] | None = None

    @property
    def likeliest(self) -> int | None:
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, tr("top_logprobs: needs logprobs true"), "top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def functions(self) -> str:
        """JSON text of the functions that may be called. Raises: ApiError 400 together with a response format."""
        if not self.tools or self.tool_choice == "none":
            return ""
        if self.response_format is not None and self.response_format.schema_given is not None:
            raise ApiError(
                400, tr("tools: cannot be called in an answer of a form; leave response_format out"), "tools"
            )
        return json.dumps([tool.model_dump() for tool in self.tools], ensure_ascii=False)

    @property
    def begun(self) -> str:
        """The answer to continue, which is the last turn; "" for none. Raises: ApiError 400 if it is not an answer."""
        if not self.continue_final_message:
            return ""
        last = self.messages[-1]
        if last.role != "assistant" or not last.text:
            reason = "continue_final_message: the last turn must be an assistant's, with the text to go on with"
            raise ApiError(400, reason, "messages")
        return last.text


class _TextBody(_Body):
    prompt: str = Field(min_length=1)
    logprobs: int | None = Field(None, ge=0, le=_MOST_LIKELIEST)

    @property
    def likeliest(self) -> int | None:
        return self.logprobs


def parse(body: bytes, chat: bool, defaults: Defaults) -> Asked:
    """The request that a body holds. Unknown fields are ignored.

    Raises: ApiError 400 naming the field at fault; 404 for an unknown model.
    """
    fields = json_object(body)
    _refuse_unsupported(fields)
    try:
        read = (_ChatBody if chat else _TextBody).model_validate(fields)
    except ValidationError as error:
        raise invalid(error) from None
    begun = read.begun if isinstance(read, _ChatBody) else ""
    tools = read.functions if isinstance(read, _ChatBody) else ""
    choices = read.n or 1
    if choices > defaults.choices:
        raise ApiError(
            400,
            tr(
                "n: {choices} answers; this server writes at most {most} at once",
                choices=choices,
                most=defaults.choices,
            ),
            "n",
        )
    # Calls are JSON in Latin letters between marks: neither scripts nor filter may touch them.
    options = defaults.options.model_copy(update={"scripts": "off"}) if tools else defaults.options
    model = defaults.chosen(read.model)
    return Asked(
        model=model,
        prompt=_turns(read.messages[: -1 if begun else None]) if isinstance(read, _ChatBody) else read.prompt,
        options=_options(read, options),
        stream=bool(read.stream),
        with_usage=bool(read.stream_options and read.stream_options.include_usage),
        begun=begun,
        schema=read.response_format.schema_given if read.response_format else None,
        choices=choices,
        likeliest=read.likeliest,
        tools=tools,
        adapter_when=defaults.switching(model, read.adapter_when),
    )


def _picture(url: str, number: int) -> Picture:
    """The picture of a data URL. Raises: ApiError 400 for one that is not base64."""
    try:
        return picture_of_url(url, f"picture {number}")
    except InputError as error:
        raise ApiError(400, tr("messages: {error}", error=error), "messages") from None


def json_object(body: bytes) -> Mapping[str, Any]:
    """The fields of a JSON object. Raises: ApiError 400."""
    try:
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, tr("the body is not JSON ({error}); send one JSON object in UTF-8", error=error)) from None
    if not isinstance(fields, dict):
        raise ApiError(400, tr("the body is not a JSON object; send {...} with the request's fields"))
    return fields


def _refuse_unsupported(fields: Mapping[str, Any]) -> None:
    for name, neutral in _UNSUPPORTED.items():
        value = fields.get(name)
        if value is not None and value not in neutral:
            raise ApiError(
                400, tr("{name} is not supported here; leave it out", name=name), name, "unsupported_parameter"
            )


def invalid(error: ValidationError) -> ApiError:
    """The error for a body with invalid fields; it names one of them."""
    # Of the members of a union, the one that was parsed furthest is the one that was meant.
    found = max(error.errors(include_url=False, include_context=False, include_input=False), key=_depth)
    place = ".".join(str(part) for part in found["loc"] if not _FORMS.fullmatch(str(part)))
    reason = found["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{place}: {reason[:1].lower()}{reason[1:]}", place)


def _depth(problem: Any) -> int:
    return len(problem["loc"])


def _options(read: _Body, defaults: GenerationOptions) -> GenerationOptions:
    """The server's `defaults` with what the request changes; `max_tokens` is limited to the server's."""
    given = read.model_dump(include=set(GenerationOptions.model_fields), exclude_none=True)
    if read.stop is not None:
        given["stop"] = (read.stop,) if isinstance(read.stop, str) else tuple(read.stop)
    wanted = read.max_completion_tokens or read.max_tokens
    try:
        Scripts.parse(given.get("scripts", defaults.scripts))
        options = generation_options({"seed": secrets.randbelow(_SEEDS), **given}, defaults)
    except InputError as error:
        raise ApiError(400, str(error), error.argument) from None
    if wanted is None:
        return options.with_usual_length(defaults.max_tokens)
    return options.model_copy(update={"max_tokens": min(wanted, defaults.max_tokens)})


def _turns(turns: Sequence[_Turn]) -> tuple[Message, ...]:
    """The conversation, with its system messages joined into one at the beginning."""
    system = "\n\n".join(turn.text for turn in turns if turn.role in ("system", "developer") and turn.text.strip())
    if any(turn.pictures for turn in turns if turn.role != "user"):
        raise ApiError(
            400, tr("messages: a picture in a turn that is not the user's; show it in a request"), "messages"
        )
    called = {call.id: call.function.name for turn in turns for call in turn.tool_calls or ()}
    spoken = [_message(turn, called) for turn in turns if turn.role in ("user", "assistant", "tool")]
    if not spoken or spoken[-1].role not in ("user", "tool"):
        raise ApiError(
            400, tr("messages: the last turn must be the user's or a tool's, which the model answers"), "messages"
        )
    if spoken[-1].role == "user" and not spoken[-1].content.replace(PICTURE, "").strip():
        raise ApiError(400, tr("messages: the last turn is empty; write what the model should answer"), "messages")
    return (*([Message("system", system)] if system else []), *spoken)


def _message(turn: _Turn, called: Mapping[str, str]) -> Message:
    """A turn; `called`: the function of each call by its id, which a tool's turn answers."""
    calls = [call.as_call for call in turn.tool_calls or ()]
    name = called.get(turn.tool_call_id or "", "") if turn.role == "tool" else ""
    if turn.pictures:
        return showing(turn.text, [_picture(url, number) for number, url in enumerate(turn.pictures, start=1)])
    return Message(turn.role, turn.text, tool_calls=json.dumps(calls, ensure_ascii=False) if calls else "", name=name)
