"""What a request asks for: its body checked field by field, and the server's own settings where it says nothing."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from mlx_loopai.data.records import Message
from mlx_loopai.errors import InputError
from mlx_loopai.generation.sampling import SamplingOptions
from mlx_loopai.serving.shapes import ApiError
from mlx_loopai.text.alphabet import Scripts

MAX_STOPS = 16
_MAX_STOP_CHARS = 200
_SEEDS = 1 << 31
_LARGEST_SEED = (1 << 63) - 1

# Fields that would change the answer and are not supported, with the values that ask for nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "modalities": (["text"],),
    "audio": (),
}


@dataclass(frozen=True)
class Defaults:
    """What holds for a request that does not say otherwise, and the most that it may ask for."""

    model: str
    scripts: Scripts
    temperature: float = 0.7
    top_p: float = 0.9
    max_tokens: int = 1024
    code_fences: bool = False
    filtered: bool = True


@dataclass(frozen=True)
class Asked:
    """A request that can be answered. `options.max_tokens` is the server's limit where `own_limit` is False.

    prompt: the messages of a chat, or the text of a plain completion.
    """

    prompt: tuple[Message, ...] | str
    options: SamplingOptions
    own_limit: bool
    scripts: Scripts
    code_fences: bool
    filtered: bool
    stops: tuple[str, ...]
    stream: bool
    with_usage: bool


class _Part(BaseModel):
    type: Literal["text"]
    text: str


class _Turn(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class _StreamOptions(BaseModel):
    include_usage: bool | None = None


class _Body(BaseModel):
    model_config = ConfigDict(strict=True)

    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    seed: int | None = Field(None, ge=0, le=_LARGEST_SEED)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    scripts: str | None = None
    code_fences: bool | None = None
    filter: bool | None = None


class _ChatBody(_Body):
    messages: list[_Turn] = Field(min_length=1)


class _TextBody(_Body):
    prompt: str = Field(min_length=1)


def parse(body: bytes, chat: bool, defaults: Defaults) -> Asked:
    """The request that a body holds. Fields that are unknown are passed over.

    Raises: ApiError 400 naming the field that is at fault; 404 for another model.
    """
    fields = _json(body)
    _refuse_unsupported(fields)
    try:
        read = (_ChatBody if chat else _TextBody).model_validate(fields)
    except ValidationError as error:
        raise _invalid(error) from None
    if read.model is not None and read.model != defaults.model:
        raise ApiError(404, f"model {read.model!r}: this server has {defaults.model}", "model", "model_not_found")
    scripts = _scripts(read.scripts, defaults)
    # Without a constraint the model's own text is wanted, code and markup included.
    filtered = read.filter if read.filter is not None else defaults.filtered and not scripts.is_off
    return Asked(
        _turns(read.messages) if isinstance(read, _ChatBody) else read.prompt,
        _options(read, defaults),
        (read.max_tokens or read.max_completion_tokens) is not None,
        scripts,
        defaults.code_fences if read.code_fences is None else read.code_fences,
        filtered,
        _stops(read.stop),
        bool(read.stream),
        bool(read.stream_options and read.stream_options.include_usage),
    )


def _json(body: bytes) -> Mapping[str, Any]:
    try:
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON ({error}); send one JSON object in UTF-8") from None
    if not isinstance(fields, dict):
        raise ApiError(400, "the body is not a JSON object; send {...} with the request's fields")
    return fields


def _refuse_unsupported(fields: Mapping[str, Any]) -> None:
    for name, neutral in _UNSUPPORTED.items():
        value = fields.get(name)
        if value is not None and value not in neutral:
            raise ApiError(400, f"{name} is not supported here; leave it out", name, "unsupported_parameter")


def _invalid(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return ApiError(400, f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}", place)


def _scripts(text: str | None, defaults: Defaults) -> Scripts:
    if text is None:
        return defaults.scripts
    try:
        return Scripts.parse(text)
    except InputError as error:
        raise ApiError(400, str(error), "scripts") from None


def _options(read: _Body, defaults: Defaults) -> SamplingOptions:
    limits = {"max_tokens": read.max_tokens, "max_completion_tokens": read.max_completion_tokens}
    for name, value in limits.items():
        if value is not None and not 1 <= value <= defaults.max_tokens:
            raise ApiError(400, f"{name} {value}: must be from 1 to {defaults.max_tokens} on this server", name)
    given = {
        "temperature": read.temperature,
        "top_p": read.top_p,
        "top_k": read.top_k,
        "repetition_penalty": read.repetition_penalty,
        "max_tokens": read.max_completion_tokens or read.max_tokens,
        "seed": read.seed,
    }
    settings = {
        "temperature": defaults.temperature,
        "top_p": defaults.top_p,
        "max_tokens": defaults.max_tokens,
        "seed": secrets.randbelow(_SEEDS),
    }
    settings |= {name: value for name, value in given.items() if value is not None}
    try:
        return SamplingOptions(**settings)  # type: ignore[arg-type]
    except InputError as error:
        raise ApiError(400, str(error)) from None


def _stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > MAX_STOPS or any(not 0 < len(one) <= _MAX_STOP_CHARS for one in stops):
        rule = f"at most {MAX_STOPS} strings of 1 to {_MAX_STOP_CHARS} characters"
        raise ApiError(400, f"stop: give {rule}", "stop")
    return stops


def _turns(turns: Sequence[_Turn]) -> tuple[Message, ...]:
    """The conversation, with all that its system messages say in front."""
    system = "\n\n".join(turn.text for turn in turns if turn.role in ("system", "developer") and turn.text.strip())
    spoken = [Message(turn.role, turn.text) for turn in turns if turn.role in ("user", "assistant")]
    if not spoken or spoken[-1].role != "user":
        raise ApiError(400, "messages: the last turn must be the user's, which the model answers", "messages")
    if not spoken[-1].content.strip():
        raise ApiError(400, "messages: the last turn is empty; write what the model shall answer", "messages")
    return (*([Message("system", system)] if system else []), *spoken)
