"""The options of text generation: defined once, for a prompt, a file of prompts, a chat, the server and Python."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, field_validator

from mlx_loopai.config.table import Options, Temperature
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 200


class SamplingOptions(Options):
    """How tokens are chosen, and at most how many. The same seed gives the same text."""

    temperature: Temperature = Field(0.7, description="0: always the likeliest token")
    top_p: float = Field(
        0.9, gt=0, le=1, description="choose among the likeliest tokens that hold this share of probability; 1: all"
    )
    top_k: int = Field(0, ge=0, description="choose among the k likeliest tokens; 0: among all")
    min_p: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="leave out tokens with less than this share of the likeliest one's probability; 0: off",
    )
    repetition_penalty: float = Field(1.0, ge=0.1, le=10, description="above 1: the model repeats itself less; 1: off")
    max_tokens: int = Field(
        1024, ge=1, description="longest text, in tokens; when not given, at most what the context leaves"
    )
    seed: int = Field(0, ge=0, description="the same seed gives the same text")


class GenerationOptions(SamplingOptions):
    """How a prompt becomes text: the choice of tokens, the scripts they may write, and what is cleaned away."""

    repetition_guard: float = Field(
        0.8,
        ge=0,
        le=10,
        description="how strongly to hold back what would repeat a passage of the answer; particles may repeat; 0: off",
    )
    scripts: str = Field(
        "ko+loanwords+gloss",
        description="scripts a text may use: off, or a sum of ko, latin, loanwords, gloss, han, emoji",
    )
    code_fences: bool = Field(False, description="allow any characters inside ``` fences")
    filter: bool | None = Field(
        None,
        description="clean the text of markup, links and code; when not given, yes unless `scripts` is off, "
        "code fences are allowed or a form is asked for",
    )
    thinking: bool = Field(
        False, description="let the model think before it answers, where its template has a switch for that"
    )
    allow_special: bool = Field(
        False, description="a control token's name in a prompt, such as <|im_end|>, is that token; otherwise it is text"
    )
    stop: tuple[str, ...] = Field((), description="end the text before this string; may be repeated")

    @field_validator("stop")
    @classmethod
    def _few_and_short(cls, stops: tuple[str, ...]) -> tuple[str, ...]:
        if len(stops) > MAX_STOPS or any(not 0 < len(one) <= MAX_STOP_CHARACTERS for one in stops):
            raise ValueError(
                tr(
                    "give at most {max_stops} strings of 1 to {max_stop_characters} characters",
                    max_stops=MAX_STOPS,
                    max_stop_characters=MAX_STOP_CHARACTERS,
                )
            )
        return stops

    @property
    def limits_length(self) -> bool:
        """True when somebody chose `max_tokens`; otherwise a text may get what its context leaves."""
        return "max_tokens" in self.model_fields_set

    def with_usual_length(self, max_tokens: int) -> GenerationOptions:
        """The same options, as if nobody had set a limit: at most `max_tokens`, less if the context has less room."""
        values = dict(self) | {"max_tokens": max_tokens}
        return GenerationOptions.model_construct(_fields_set=self.model_fields_set - {"max_tokens"}, **values)


def generation_options(values: Mapping[str, Any], defaults: GenerationOptions | None = None) -> GenerationOptions:
    """The options that `values` give by name, over `defaults`. Raises: InputError naming every one out of range."""
    given = defaults.model_dump(exclude_unset=True) if defaults else {}
    try:
        return GenerationOptions.model_validate(given | dict(values))
    except ValidationError as error:
        problems = error.errors()
        first = problems[0]["loc"]
        raise InputError(all_problems(map(_problem, problems)), str(first[0]) if first else None) from None


def _problem(problem: Any) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else "options"
    if problem["type"] == "extra_forbidden":
        known = list(GenerationOptions.model_fields)
        near = difflib.get_close_matches(name, known, n=1)
        hint = tr("did you mean `{near}`?", near=near[0]) if near else tr("there are {known}", known=", ".join(known))
        return tr("`{name}`: there is no such option; {hint}", name=name, hint=hint)
    reason = problem["msg"].removeprefix("Value error, ")
    return f"`{name}` {problem['input']!r}: {reason[:1].lower()}{reason[1:]}"
