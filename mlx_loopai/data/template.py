"""Takes a rendered chat template apart into the text that the model reads and the text that it has to write.

The template itself is run, never imitated. Each answer is replaced by a mark, the conversation is rendered, and the
text between the marks is what surrounds the answers. This also works for templates that treat past turns differently
from the last one (Qwen3 drops the thinking block of past turns), where rendering a prefix of a conversation does not
give a prefix of the rendered conversation.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from mlx_loopai.data.conversation import Message
from mlx_loopai.data.template_limits import TemplateTooSlowError, limited, require_modest
from mlx_loopai.data.turn_forms import Turn as Turn
from mlx_loopai.data.turn_forms import TurnForm, holds_places, is_plain, place
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

_OPEN_THINKING = re.compile(r"<think>\s*(?:</think>\s*)?\Z")
# How many answers at either end of a conversation are checked against what generation would read before them.
_COMPARED = 16
# The most kinds of conversations, and messages in one, that are kept written down.
_MOST_FORMS, _MOST_MESSAGES = 64, 32
# The ways in which a template may trim an answer's outer white space.
_TRIMS: tuple[Callable[[str], str], ...] = (
    str,
    str.strip,
    lambda text: text.strip("\n"),
    lambda text: text.lstrip("\n"),
)


@dataclass(frozen=True)
class _Chat:
    """A conversation as the template is asked for it: messages, the functions' JSON text, whether answers think."""

    messages: tuple[Message, ...]
    tools: str
    thinks: bool
    origin: str

    def until(self, position: int) -> _Chat:
        return replace(self, messages=self.messages[:position])


class ChatTemplate:
    """The chat template of `tokenizer` with one system prompt, for training and generation alike.

    `tokenizer` needs `apply_chat_template(messages, tokenize=False, add_generation_prompt=...)`. A non-empty
    `system_prompt` is put before conversations that have none of their own; with an empty one the template's
    default, if any, applies.
    """

    def __init__(self, tokenizer: Any, system_prompt: str = "") -> None:
        self._tokenizer = tokenizer
        self._system_prompt = system_prompt
        self._is_modest = False
        self._forms: dict[tuple[str, ...], list[TurnForm]] = {}
        text = self._text = str(getattr(tokenizer, "chat_template", None) or "")
        self._has_switch = "thinking" in text
        self._knows_reasoning = "reasoning_content" in text
        self._knows_tools = "tools" in text

    @cached_property
    def closing(self) -> str:
        """The end-of-turn marker that the template writes after an answer.

        Raises: InputError when there is no template or it closes no turn (the model would never learn to stop).
        """
        request, answer = Message("user", "request"), Message("assistant", "ANSWERMARK")
        rendered = self._render(_Chat((request, answer), "", False, "the chat template"), False)
        closing = rendered.rpartition(answer.content)[2].rstrip()
        if answer.content not in rendered or not closing:
            raise InputError(tr("the chat template ends no assistant turn with a marker; use another tokenizer folder"))
        return closing

    @cached_property
    def scaffold(self) -> str:
        """What the template writes around a short conversation. Raises: InputError as `closing` does."""
        turns = (Message("user", ""), Message("assistant", "."), Message("user", ""))
        return self._render(_Chat(turns, "", False, "the chat template"), True)

    def prompt(
        self, messages: Sequence[Message], origin: str = "prompt", tools: str = "", thinks: bool = False
    ) -> tuple[list[Turn], str]:
        """Past turns, and the text after the last of them up to where the model begins to write.

        `thinks`: the model shall think before it answers, where the template has a switch for it.

        Raises: InputError naming `origin` when the template refuses the messages.
        """
        chat = self._chat(messages, tools, origin)
        chat = replace(chat, thinks=thinks)
        marked, marks = _mark(chat.messages)
        texts = self._between(self._render(replace(chat, messages=marked), True), marks, origin)
        tails = self._tails(chat, texts)
        answers = self._rendered_answers(chat, texts, tails, True)
        return self._turns(texts, answers, tails, origin), self._after(texts[-1], tails[-1:], origin)

    def turns(self, messages: Sequence[Message], origin: str, tools: str = "") -> list[Turn]:
        """Every answer of a conversation that ends with one.

        An answer's thoughts are learnt where the template shows them: Qwen3's shows them for answers after the last
        request. Earlier answers are context then, since in generation they would have had thoughts too.

        Raises: InputError naming `origin` when the template refuses the messages, or when the text before an
        answer is not what generation would read before it (past turns may lack an empty thinking block).
        """
        chat = self._chat(messages, tools, origin)
        plain = self._known_turns(chat) or self._plain_turns(chat)
        if plain is not None:
            return plain
        marked, marks = _mark(chat.messages)
        texts = self._between(self._render(replace(chat, messages=marked), False), marks, origin)
        tails = self._tails(chat, texts)
        answers = self._rendered_answers(chat, texts, tails, False)
        turns = self._turns(texts, answers, tails, origin)
        return self._as_generated(turns, replace(chat, messages=marked), texts, marks)

    @cached_property
    def _copies(self) -> bool:
        """Whether plain texts only have to be put in their places in what the template writes."""
        from mlx_loopai.data.template_proof import copies_plain_texts  # brings jinja2, which reading rows does not need

        tokenizer = self._tokenizer
        if _way_of(tokenizer).startswith("mlx_lm") and tokenizer._chat_template is None:  # the wrapper adds nothing
            tokenizer = tokenizer._tokenizer
        return (
            _way_of(tokenizer).startswith("transformers.tokenization_utils")
            and tokenizer.chat_template == self._text
            and not holds_places(self._text)
            and copies_plain_texts(self._text)
        )

    def _known_turns(self, chat: _Chat) -> list[Turn] | None:
        """As `_plain_turns`, without the template where a conversation of these roles was written before."""
        if chat.tools or not all(message.is_bare and is_plain(message.content) for message in chat.messages):
            return None
        roles = tuple(message.role for message in chat.messages)
        if roles not in self._forms:
            if len(self._forms) >= _MOST_FORMS or len(roles) > _MOST_MESSAGES or not self._copies:
                return None
            self._forms[roles] = self._forms_of(roles)
        texts = [message.content for message in chat.messages]
        return [form.filled(texts) for form in self._forms[roles]] or None

    def _forms_of(self, roles: tuple[str, ...]) -> list[TurnForm]:
        """Those of a conversation's turns; none where it has to be written each time."""
        messages = tuple(Message(role, place(at)) for at, role in enumerate(roles))
        try:
            turns = self._plain_turns(_Chat(messages, "", False, "the chat template"), exactly=True)
        except InputError:
            return []
        return [TurnForm.of(turn) for turn in turns or ()]

    def _plain_turns(self, chat: _Chat, exactly: bool = False) -> list[Turn] | None:
        """The turns where the conversation reads as the prompts, the answers and their closings one after the other.

        Marks are not needed then: most conversations are like this. None for any other. exactly: the prompts as they
        are, with the empty block of thoughts.
        """
        positions = [index for index, message in enumerate(chat.messages) if message.role == "assistant"]
        answers = [chat.messages[position] for position in positions]
        if chat.thinks or len(answers) > _COMPARED or not all(one.taught and not one.tool_calls for one in answers):
            return None
        rendered, end, turns = self._render(chat, False), 0, []
        for position, answer in zip(positions, answers, strict=True):
            asked = self._render(chat.until(position), True)
            # Before a past answer a template may leave out the empty block of thoughts.
            whole = exactly or position == positions[-1] or rendered.startswith(asked)
            reads = asked if whole else _OPEN_THINKING.sub("", asked)
            written = self._written(rendered[len(reads) :], answer.content)
            if written is None or len(reads) < end or not rendered.startswith(reads):
                return None
            turns.append(Turn(rendered[end : len(reads)], written, self.closing))
            end = len(reads) + len(written) + len(self.closing)
        return None if rendered[end:].strip() else turns

    def _written(self, rendered: str, answer: str) -> str | None:
        """The answer as the template writes it at the beginning of `rendered`; None where it writes something else."""
        return next((text for trim in _TRIMS if rendered.startswith((text := trim(answer)) + self.closing)), None)

    def _as_generated(self, turns: list[Turn], marked: _Chat, texts: list[str], marks: list[str]) -> list[Turn]:
        """The turns, with the part of the text before them that the model writes itself: its thoughts."""
        positions = [index for index, message in enumerate(marked.messages) if message.role == "assistant"]
        read, found = "", []
        for number, (turn, position) in enumerate(zip(turns, positions, strict=True)):
            read += texts[number]
            taught, past = marked.messages[position].taught, number < len(positions) - 1
            # Only a row's first and last answers are checked: those between are rendered alike.
            if taught and (marked.thinks or number < _COMPARED or number >= len(positions) - _COMPARED):
                asked = self._render(marked.until(position), True)
                thoughts = read[len(asked) :] if marked.thinks and read.startswith(asked) else ""
                taught = bool(thoughts.strip()) if marked.thinks else True
                if not marked.thinks and read != asked and not (past and read == _OPEN_THINKING.sub("", asked)):
                    raise InputError(
                        tr(
                            "{origin}: the chat template is not prefix-consistent: before answer {number} it shows "
                            "{read!r} in training and {asked!r} in generation; make a row of one turn, or use "
                            "another chat template",
                            origin=marked.origin,
                            number=number + 1,
                            read=read[-40:],
                            asked=asked[-40:],
                        )
                    )
                if taught and thoughts:
                    before = turn.before[: len(turn.before) - len(thoughts)]
                    turn = replace(turn, before=before, answer=thoughts + turn.answer)
            found.append(replace(turn, taught=taught))
            read += marks[number]
        if not any(turn.taught for turn in found):
            raise InputError(
                tr(
                    "{origin}: the chat template shows no thoughts of any answer; leave the row out",
                    origin=marked.origin,
                )
            )
        return found

    def _chat(self, messages: Sequence[Message], tools: str, origin: str) -> _Chat:
        if tools and not self._knows_tools:
            raise InputError(
                tr("{origin}: the chat template knows no tools; use another model, or leave the row out", origin=origin)
            )
        given = self._with_system(messages)
        if not self._knows_reasoning:
            given = [_with_inline_thoughts(message) for message in given]
        return _Chat(tuple(given), tools, any(message.thinking for message in given), origin)

    def _tails(self, chat: _Chat, texts: list[str]) -> list[str]:
        """What the template writes between an answer's text and its closing: its tool calls."""
        answers = [message for message in chat.messages if message.role == "assistant"]
        return [
            text.partition(self.closing)[0] if message.tool_calls else ""
            for message, text in zip(answers, texts[1:], strict=True)
        ]

    def _rendered_answers(self, chat: _Chat, texts: list[str], tails: list[str], generate: bool) -> list[str]:
        """The answers as the template writes them, tool calls included: as they are, or trimmed."""
        answers = [message.content for message in chat.messages if message.role == "assistant"]
        if not answers:
            return []
        rendered = self._render(chat, generate)
        rest = [texts[0], *(text.removeprefix(tail) for text, tail in zip(texts[1:], tails, strict=True))]
        for trim in _TRIMS:
            # Calls without a text before them begin where the text would have begun.
            whole = [
                trim(answer) + tail if answer.strip() or not tail else tail.lstrip("\n")
                for answer, tail in zip(answers, tails, strict=True)
            ]
            if rendered == _weave(rest, whole):
                return whole
        thinks = any("</think>" in answer for answer in answers)
        reason = tr("a thinking block") if thinks else tr("its tool calls") if any(tails) else tr("its content")
        raise InputError(
            tr(
                "{origin}: the chat template rewrites {reason} of an answer; take that out of the row",
                origin=chat.origin,
                reason=reason,
            )
        )

    def _turns(self, texts: list[str], answers: list[str], tails: list[str], origin: str) -> list[Turn]:
        befores = [self._after(text, tails[number - 1 : number], origin) for number, text in enumerate(texts)]
        return [Turn(before, answer, self.closing) for before, answer in zip(befores, answers, strict=False)]

    def _after(self, text: str, tail: Sequence[str], origin: str) -> str:
        """`text` after the tail and the closing of the answer that it follows; `tail` is empty before the first."""
        if not tail:
            return text
        text = text.removeprefix(tail[0])
        if not text.startswith(self.closing):
            raise InputError(
                tr(
                    "{origin}: the chat template is not prefix-consistent: it ends a past answer with {text!r}, not "
                    "{closing!r}; make a row of one turn",
                    origin=origin,
                    text=text[:20],
                    closing=self.closing,
                )
            )
        return text[len(self.closing) :]

    def _between(self, rendered: str, marks: list[str], origin: str) -> list[str]:
        """The texts between the marks, in one pass: a conversation may have thousands of turns."""
        if not marks:
            return [rendered]
        stem = marks[0].removesuffix("0END")
        parts = re.split(f"({stem}[0-9]+END)", rendered)
        if parts[1::2] != marks:
            found = Counter(parts[1::2])
            wrong = next((number for number, mark in enumerate(marks, start=1) if found[mark] != 1), 1)
            raise InputError(
                tr(
                    "{origin}: the chat template drops or repeats answer {wrong}; make a row of one turn",
                    origin=origin,
                    wrong=wrong,
                )
            )
        return parts[::2]

    def _with_system(self, messages: Sequence[Message]) -> list[Message]:
        own = any(message.role == "system" for message in messages)
        return [*messages] if own or not self._system_prompt else [Message("system", self._system_prompt), *messages]

    def _require_modest(self) -> None:
        """Once, before the first rendering. Raises: InputError."""
        if not self._is_modest:
            require_modest(self._text)
            self._is_modest = True

    def _render(self, chat: _Chat, generate: bool) -> str:
        if not getattr(self._tokenizer, "has_chat_template", getattr(self._tokenizer, "chat_template", True)):
            raise InputError(
                tr("the tokenizer has no chat template; use an instruction-tuned model or rows of plain text")
            )
        # Without the switch, Qwen3 would begin every answer with a thinking block, which such training rows do not
        # have.
        options: dict[str, Any] = {"enable_thinking": chat.thinks} if self._has_switch else {}
        if chat.tools:
            options["tools"] = json.loads(chat.tools)
        self._require_modest()
        try:
            with limited():
                return self._tokenizer.apply_chat_template(
                    [message.as_turn() for message in chat.messages],
                    tokenize=False,
                    add_generation_prompt=generate,
                    **options,
                )
        except TemplateTooSlowError:
            raise InputError(
                tr("{origin}: the chat template runs without end; do not trust this model", origin=chat.origin)
            ) from None
        except Exception as error:  # a template is a program of the model's maker and may raise anything
            raise InputError(
                tr(
                    "{origin}: the chat template refuses this: {error}",
                    origin=chat.origin,
                    error=" ".join(str(error).split()),
                )
            ) from None


def _way_of(tokenizer: Any) -> str:
    """The module in which it is written how `tokenizer` runs a template."""
    return str(getattr(getattr(type(tokenizer), "apply_chat_template", None), "__module__", ""))


def _with_inline_thoughts(message: Message) -> Message:
    """The message for a template that has no place for thoughts: they are put at the beginning of the answer."""
    if not message.thinking:
        return message
    return replace(message, content=f"<think>\n{message.thinking}\n</think>\n\n{message.content}", thinking="")


def _mark(messages: Sequence[Message]) -> tuple[tuple[Message, ...], list[str]]:
    """The messages with a unique mark in place of each answer, and the marks."""
    stem = "ANSWERMARK"
    while any(stem in message.content or stem in message.thinking for message in messages):
        stem += "X"
    marked: list[Message] = []
    marks: list[str] = []
    for message in messages:
        if message.role == "assistant":
            marks.append(f"{stem}{len(marks)}END")
            message = replace(message, content=marks[-1])
        marked.append(message)
    return tuple(marked), marks


def _weave(texts: Sequence[str], answers: Sequence[str]) -> str:
    return "".join(text + answer for text, answer in zip(texts, [*answers, ""], strict=True))
