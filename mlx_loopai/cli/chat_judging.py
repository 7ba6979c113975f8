"""Keeps judgements of answers in `chat`: /good, /bad and /edit append a row to the file of --feedback."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

if TYPE_CHECKING:
    from mlx_loopai.data.pairs import Judged
    from mlx_loopai.data.records import Record
    from mlx_loopai.generation.chat import Chat
    from mlx_loopai.generation.kept_conversation import Conversation

GOOD, BAD, AGAIN, EDIT = "good", "bad", "again", "edit"


@dataclass
class Judging:
    """Judgements of one conversation's answers. file: where they go; None: nowhere, and judging is refused.

    earlier: the conversation as it ended before the last /again, so that /good and /bad compare the two answers.
    """

    file: Path | None
    model: str
    adapter: Path | None
    earlier: Conversation | None = None

    def judge(self, chat: Chat, command: str, text: str) -> str:
        """Append the judgement of the last answer. Returns: what to tell. Raises: InputError."""
        if self.file is None:
            raise InputError(tr("/{command}: start chat with --feedback FILE to keep what you think", command=command))
        if not chat.conversation.exchanges:
            raise InputError(tr("/{command}: nothing was answered yet", command=command))
        if any(turn.pictures for turn in chat.conversation.turns):
            raise InputError(
                tr("/{command}: answers to pictures are not judged: no run learns from such rows yet", command=command)
            )
        return self._edited(chat, text) if command == EDIT else self._voted(chat, good=command == GOOD)

    def compare(self, earlier: Conversation) -> None:
        """Call after /again: the next judgement compares the new answer with the last answer of `earlier`."""
        self.earlier = earlier

    def forget(self) -> None:
        """Call after a new request: the next judgement is of one answer alone."""
        self.earlier = None

    def _voted(self, chat: Chat, good: bool) -> str:
        from mlx_loopai.data.pairs import Label

        last, earlier = chat.conversation, self.earlier
        if earlier is None:
            return self._keep(Label(_record(last), good), "vote")
        if earlier.turns[-1].content == last.turns[-1].content:
            raise InputError(tr("both answers are the same; /again writes another one"))
        better, worse = (last, earlier) if good else (earlier, last)
        return self._preferred(chat, better, worse, "pick")

    def _edited(self, chat: Chat, text: str) -> str:
        if not text:
            raise InputError(tr("/edit: write the answer as it should be, such as /edit TEXT"))
        last = chat.conversation
        if text == last.turns[-1].content:
            raise InputError(tr("/edit: this is the answer as it was"))
        return self._preferred(chat, last.edited(text), last, "edit")

    def _preferred(self, chat: Chat, better: Conversation, worse: Conversation, source: str) -> str:
        """Keep the pair; the chat goes on from the better answer."""
        from mlx_loopai.data.pairs import Pair

        told = self._keep(Pair(_record(better), _record(worse)), source)
        self.earlier = None
        chat.begin(better)
        return told

    def _keep(self, judged: Judged, source: str) -> str:
        from mlx_loopai.data.feedback import append_feedback, feedback_rows

        assert self.file is not None
        adapter = None if self.adapter is None else str(self.adapter)
        origin = {"source": source, "model": self.model, "adapter": adapter, "time": int(time.time())}
        added = append_feedback(self.file, feedback_rows([judged], **origin))
        if not added:
            return tr("{file}: that was there already", file=self.file)
        return tr("{file}: kept", file=self.file)


def _record(conversation: Conversation) -> Record:
    """The conversation as a record in which only the last answer is judged."""
    from dataclasses import replace

    from mlx_loopai.data.records import Record

    *before, last = conversation.messages()
    messages = (*(replace(message, taught=False) if message.role == "assistant" else message for message in before),)
    return Record((*messages, replace(last, taught=True)), kind="chat", category="domain", origin="chat")
