"""A tokenizer's chat template, taken apart into what the model reads and what it has to write.

The template is asked, never imitated: each answer is replaced by a mark, the conversation is rendered, and the
text between the marks is what surrounds the answers. That holds for templates that treat past turns unlike the
last one (Qwen3 drops the thinking block of past turns), where prefixes of a rendering are not renderings of prefixes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlx_loopai.data.records import Message
from mlx_loopai.errors import InputError

_OPEN_THINKING = re.compile(r"<think>\s*(?:</think>\s*)?\Z")
# What a template may do to an answer's outer white space.
_TRIMS: tuple[Callable[[str], str], ...] = (
    str,
    str.strip,
    lambda text: text.strip("\n"),
    lambda text: text.lstrip("\n"),
)


@dataclass(frozen=True)
class Turn:
    """An answer in its place; `before` begins where the closing of the answer before it ended."""

    before: str
    answer: str
    closing: str  # the end-of-turn marker, without the line break after it


class ChatTemplate:
    """The chat template of `tokenizer` with one system prompt, for training and generation alike.

    `tokenizer` needs `apply_chat_template(messages, tokenize=False, add_generation_prompt=...)`. A non-empty
    `system_prompt` is put before conversations that have none of their own; with an empty one the template's
    default, if any, stands.
    """

    def __init__(self, tokenizer: Any, system_prompt: str = "") -> None:
        self._tokenizer = tokenizer
        self._system_prompt = system_prompt
        # Without this Qwen3 would open every generated answer with a thinking block that no training row has.
        thinks = "thinking" in str(getattr(tokenizer, "chat_template", None) or "")
        self._switches = {"enable_thinking": False} if thinks else {}

    @cached_property
    def closing(self) -> str:
        """The end-of-turn marker that the template writes after an answer.

        Raises: InputError when there is no template or it closes no turn (the model would never learn to stop).
        """
        request, answer = Message("user", "request"), Message("assistant", "ANSWERMARK")
        rendered = self._render([request, answer], False, "the chat template")
        closing = rendered.rpartition(answer.content)[2].rstrip()
        if answer.content not in rendered or not closing:
            raise InputError("the chat template ends no assistant turn with a marker; use another tokenizer folder")
        return closing

    def prompt(self, messages: Sequence[Message], origin: str = "prompt") -> tuple[list[Turn], str]:
        """Past turns, and the text after the last of them up to where the model begins to write.

        Raises: InputError naming `origin` when the template refuses the messages.
        """
        full = self._with_system(messages)
        marked, marks = _mark(full)
        texts = self._between(self._render(marked, True, origin), marks, origin)
        answers = self._rendered_answers(full, texts, True, origin)
        return self._turns(texts, answers, origin), self._after_closing(texts[-1], bool(marks), origin)

    def turns(self, messages: Sequence[Message], origin: str) -> list[Turn]:
        """Every answer of a conversation that ends with one.

        Raises: InputError naming `origin` when the template refuses the messages, or when the text before an
        answer is not what generation would read before it (past turns may lack an empty thinking block).
        """
        full = self._with_system(messages)
        marked, marks = _mark(full)
        texts = self._between(self._render(marked, False, origin), marks, origin)
        self._check_prompts(marked, marks, texts, origin)
        return self._turns(texts, self._rendered_answers(full, texts, False, origin), origin)

    def _check_prompts(self, marked: list[Message], marks: list[str], texts: list[str], origin: str) -> None:
        positions = [index for index, message in enumerate(marked) if message.role == "assistant"]
        read = ""
        for number, position in enumerate(positions):
            read += texts[number]
            asked = self._render(marked[:position], True, origin)
            past = number < len(positions) - 1
            if read != asked and not (past and read == _OPEN_THINKING.sub("", asked)):
                raise InputError(
                    f"{origin}: the chat template is not prefix-consistent: before answer {number + 1} it shows "
                    f"{read[-40:]!r} in training and {asked[-40:]!r} in generation; "
                    "make a row of one turn, or use another chat template"
                )
            read += marks[number]

    def _rendered_answers(self, full: list[Message], texts: list[str], generate: bool, origin: str) -> list[str]:
        """The answers as the template writes them: as they are, or trimmed."""
        answers = [message.content for message in full if message.role == "assistant"]
        if not answers:
            return []
        rendered = self._render(full, generate, origin)
        for trim in _TRIMS:
            trimmed = [trim(answer) for answer in answers]
            if rendered == _weave(texts, trimmed):
                return trimmed
        reason = "a thinking block" if any("</think>" in answer for answer in answers) else "its content"
        raise InputError(f"{origin}: the chat template rewrites {reason} of an answer; take that out of the row")

    def _turns(self, texts: list[str], answers: list[str], origin: str) -> list[Turn]:
        befores = [self._after_closing(text, number > 0, origin) for number, text in enumerate(texts)]
        return [Turn(before, answer, self.closing) for before, answer in zip(befores, answers, strict=False)]

    def _after_closing(self, text: str, follows_answer: bool, origin: str) -> str:
        if not follows_answer:
            return text
        if not text.startswith(self.closing):
            raise InputError(
                f"{origin}: the chat template is not prefix-consistent: it ends a past answer with "
                f"{text[:20]!r}, not {self.closing!r}; make a row of one turn"
            )
        return text[len(self.closing) :]

    def _between(self, rendered: str, marks: list[str], origin: str) -> list[str]:
        texts: list[str] = []
        rest = rendered
        for number, mark in enumerate(marks, start=1):
            if rest.count(mark) != 1:
                raise InputError(
                    f"{origin}: the chat template drops or repeats answer {number}; make a row of one turn"
                )
            text, _, rest = rest.partition(mark)
            texts.append(text)
        return [*texts, rest]

    def _with_system(self, messages: Sequence[Message]) -> list[Message]:
        own = any(message.role == "system" for message in messages)
        return [*messages] if own or not self._system_prompt else [Message("system", self._system_prompt), *messages]

    def _render(self, messages: Sequence[Message], generate: bool, origin: str) -> str:
        if not getattr(self._tokenizer, "has_chat_template", getattr(self._tokenizer, "chat_template", True)):
            raise InputError("the tokenizer has no chat template; use an instruction-tuned model or rows of plain text")
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=generate, **self._switches
            )
        except Exception as error:  # a template is a program of the model's maker and may raise anything
            raise InputError(f"{origin}: the chat template refuses this: {' '.join(str(error).split())}") from None


def _mark(messages: Sequence[Message]) -> tuple[list[Message], list[str]]:
    """The messages with a unique mark in place of each answer, and the marks."""
    stem = "ANSWERMARK"
    while any(stem in message.content for message in messages):
        stem += "X"
    marked: list[Message] = []
    marks: list[str] = []
    for message in messages:
        if message.role == "assistant":
            marks.append(f"{stem}{len(marks)}END")
            message = Message("assistant", marks[-1])
        marked.append(message)
    return marked, marks


def _weave(texts: Sequence[str], answers: Sequence[str]) -> str:
    return "".join(text + answer for text, answer in zip(texts, [*answers, ""], strict=True))
