"""The input line of `chat`: a paste of several lines is one request, and earlier requests can be recalled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

HISTORY_FILE = "history"


class Line:
    """Reads requests from the terminal. Enter sends what was typed or pasted; Alt-Enter begins a new line in it."""

    def __init__(self, folder: Path) -> None:
        """folder: where the history of requests is kept."""
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory

        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # nobody else may read what a person asks
        self._session: PromptSession[str] = PromptSession(
            "> ",
            history=FileHistory(str(folder / HISTORY_FILE)),
            key_bindings=_keys(),
            # A pasted text holds line breaks, and is shown with them.
            multiline=True,
            prompt_continuation="  ",
        )

    def read(self) -> str:
        """The next request. Raises: EOFError after Ctrl-D; KeyboardInterrupt after Ctrl-C."""
        return self._session.prompt()


def _keys() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys
