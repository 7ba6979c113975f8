"""Keeps the conversations of `chat` in a terminal, so that `chat --continue` can go on with the last one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_loopai.errors import InputError
from mlx_loopai.files import cache_folder
from mlx_loopai.language import tr

if TYPE_CHECKING:
    from mlx_loopai.generation.kept_conversation import Conversation


def chats_folder() -> Path:
    """The folder of conversations and of the history of requests."""
    return cache_folder() / "chats"


@dataclass(frozen=True)
class Autosave:
    """The file of one conversation; it is created with the first exchange."""

    path: Path

    @classmethod
    def new(cls) -> Autosave:
        """The file for a conversation that begins now."""
        return cls(chats_folder() / f"{datetime.now():%Y-%m-%dT%H-%M-%S}-{os.getpid()}.jsonl")

    @classmethod
    def newest(cls) -> Autosave:
        """The conversation that was written last. Raises: InputError when there is none."""
        found = sorted(chats_folder().glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise InputError(tr("--continue: no conversation is kept yet; begin one without it"))
        return cls(found[-1])

    def read(self) -> Conversation:
        """The conversation. Raises: InputError when the file is damaged."""
        from mlx_loopai.generation.kept_conversation import Conversation

        return Conversation.load(self.path)

    def write(self, conversation: Conversation) -> None:
        """Write `conversation`, unless it is empty, into a folder that only its owner can read."""
        if not conversation.turns:
            return
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        conversation.keep(self.path)
