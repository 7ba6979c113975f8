"""A conversation with a model: its turns, what of them still fits, and answers that read only what is new."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_loopai.config import GenerationOptions
from mlx_loopai.data.formats import read_rows
from mlx_loopai.data.records import Message, Record
from mlx_loopai.errors import InputError
from mlx_loopai.files import write_whole
from mlx_loopai.generation.answer_stream import Writing, write
from mlx_loopai.generation.prompts import Prompt, single_prompt
from mlx_loopai.generation.session import Session, answer_room, fitted
from mlx_loopai.language import tr
from mlx_loopai.models.prompt_cache import KeptCache
from mlx_loopai.text.ending import end_near

# Turns leave several at a time: each time the oldest goes, everything after it must be read again.
_KEPT_SHARE = 0.75


@dataclass(frozen=True)
class Conversation:
    """Requests and their answers in turns, and the system prompt above them ("" for none)."""

    system: str = ""
    turns: tuple[Message, ...] = ()

    @property
    def exchanges(self) -> int:
        return len(self.turns) // 2

    def messages(self, skip: int = 0) -> tuple[Message, ...]:
        """What the model reads, without the first `skip` exchanges."""
        system = (Message("system", self.system),) if self.system else ()
        return (*system, *self.turns[2 * skip :])

    def with_turn(self, role: str, text: str, whole: bool = True) -> Conversation:
        """With one turn more. whole: an answer that was stopped or cut is kept, and training does not learn it."""
        return dataclasses.replace(self, turns=(*self.turns, Message(role, text, taught=whole)))

    def undone(self) -> Conversation:
        """Without the last exchange."""
        return dataclasses.replace(self, turns=self.turns[:-2])

    def save(self, path: Path) -> None:
        """Write it as one row that training reads, too: an answer that is not whole has the weight 0 there.

        Raises: InputError rather than write over anything else.
        """
        if not self.turns:
            raise InputError(tr("there is nothing to save yet"))
        if path.exists():
            Conversation.load(path)
        write_whole(path, self.row())

    def row(self) -> str:
        """The line that `save` writes."""
        return json.dumps({"messages": [message.as_row() for message in self.messages()]}, ensure_ascii=False) + "\n"

    def markdown(self) -> str:
        """The conversation to read: each request as a heading, its answer below."""
        parts = [f"> {self.system}\n"] if self.system else []
        for asked, answer in zip(self.turns[::2], self.turns[1::2], strict=True):
            heading = " ".join(asked.content.split())
            # A request of several paragraphs is no heading.
            parts.append(f"## {heading}\n" if heading == asked.content.strip() else f"{_quoted(asked.content)}\n")
            parts.append(f"{answer.content.strip()}\n")
        return "\n".join(parts)

    @classmethod
    def load(cls, path: Path) -> Conversation:
        """The conversation that `save` wrote. Raises: InputError when the file holds something else."""
        rows, problems = read_rows(path)
        messages = _messages(rows[0].values) if len(rows) == 1 and not problems else []
        system = messages[0].content if messages and messages[0].role == "system" else ""
        turns = tuple(messages[1:] if system else messages)
        roles = [message.role for message in turns]
        if not turns or roles != ["user", "assistant"] * (len(turns) // 2):
            raise InputError(
                tr("{path}: not a saved chat: one row with turns of user and assistant; name another file", path=path)
            )
        return cls(system, turns)


def _messages(values: Any) -> list[Message]:
    """The turns of a row that `save` wrote; none for any other."""
    turns = values.get("messages") if isinstance(values, dict) else None
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return []
    if not all(isinstance(turn.get(name), str) for turn in turns for name in ("role", "content")):
        return []
    return [Message(turn["role"], turn["content"], taught=turn.get("weight") != 0) for turn in turns]


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.strip().split("\n"))


@dataclass(frozen=True)
class ChatOptions:
    """How answers are written. `context_tokens` hold prompt and answer.

    length_chars: an answer ends after the sentence that reaches it; 0: where the model ends it.
    """

    generation: GenerationOptions
    context_tokens: int
    examples: Sequence[Record] = ()
    length_chars: int = 0


@dataclass(eq=False)
class Turn:
    """An answer in the making: take its `pieces`; `writing` holds what is known of it, finally when they have ended.

    left_out: how many of the oldest exchanges left for it. read_tokens: of the prompt, those that had to be computed.
    reached: it ended at the wished length.
    """

    left_out: int
    read_tokens: int
    writing: Writing
    pieces: Generator[str, None, None]
    reached: bool = False


class Chat:
    """A model in conversation. The keys and values of earlier turns are kept."""

    def __init__(self, session: Session, options: ChatOptions) -> None:
        self._session, self.options = session, options
        self._cache = KeptCache(session.loaded.model)
        self._adapter_read = session.adapter is not None
        self.conversation = Conversation(session.system_prompt)
        self._skipped = 0

    def begin(self, conversation: Conversation) -> None:
        """Continue another conversation: an earlier one, or one that was loaded."""
        self.conversation, self._skipped = conversation, 0

    def set_generation(self, options: GenerationOptions) -> None:
        """Write the answers to come as `options` say."""
        self.options = dataclasses.replace(self.options, generation=options)

    def ask(self, text: str) -> Turn:
        """The answer to `text`, which joins the conversation with what was written of it, also when it is stopped.

        Raises: InputError for a request that is empty or does not fit.
        """
        single_prompt(text)
        asked = self.conversation.with_turn("user", text)
        ids, skipped = self._shortened(asked)
        options = fitted(self.options.generation, len(ids), self.options.context_tokens)
        left_out, self._skipped = skipped - self._skipped, skipped
        options = options.model_copy(update={"seed": options.seed + self.conversation.exchanges})
        request = self._session.request(ids, options)
        if request.adapter != self._adapter_read:  # what base and adapter read of the same tokens differs
            self._cache.forget()
            self._adapter_read = request.adapter
        prefix = self._cache.prefix(ids)
        writing = Writing(dataclasses.replace(request, prefix=prefix))
        pieces = self._written(writing, asked)
        turn = Turn(left_out=left_out, read_tokens=len(ids) - len(prefix.tokens), writing=writing, pieces=pieces)
        if self.options.length_chars:
            turn.pieces = self._ended(turn, pieces, asked)
        return turn

    def _written(self, writing: Writing, asked: Conversation) -> Generator[str, None, None]:
        written = False
        try:
            yield from write(self._session.loaded, writing)
            written = True
        finally:
            if written and not writing.stopped:
                self._cache.keep([*writing.request.prompt, *writing.tokens])
            else:
                # Stopped in the middle of a step, its layers may be of different lengths.
                self._cache.forget()
            # Nothing was said when it was stopped at once: the next request would follow as a second turn.
            if writing.shown.strip():
                whole = written and writing.text().finished
                self.conversation = asked.with_turn("assistant", writing.shown, whole)

    def _ended(self, turn: Turn, pieces: Generator[str, None, None], asked: Conversation) -> Generator[str, None, None]:
        """The pieces of an answer up to the sentence that reaches the wished length."""
        text = ""
        with contextlib.closing(pieces):
            for piece in pieces:
                end = end_near(text + piece, self.options.length_chars)
                if end is None:
                    text += piece
                    yield piece
                    continue
                turn.reached = True
                yield piece[: max(0, end - len(text))]
                text = (text + piece)[:end]
                break
        if turn.reached:
            # It ends with a sentence, but not as the model would have ended it.
            self.conversation = asked.with_turn("assistant", text, whole=False)

    def _shortened(self, asked: Conversation) -> tuple[list[int], int]:
        """The prompt's tokens, and how many of the oldest exchanges it leaves out to have room for the answer."""
        room = self.options.context_tokens - answer_room(self.options.generation, self.options.context_tokens)
        skipped = self._skipped
        ids = self._ids(asked, skipped)
        if len(ids) <= room:
            return ids, skipped
        while len(ids) > _KEPT_SHARE * room and skipped < asked.exchanges:
            skipped += 1
            ids = self._ids(asked, skipped)
        return ids, skipped

    def _ids(self, asked: Conversation, skip: int) -> list[int]:
        prompt = Prompt(asked.messages(skip), "chat")
        return self._session.prompt_ids(prompt, self.options.examples, self.options.generation)
