"""Control tokens named in a person's text: kept as text, so that a row or a request cannot forge a turn.

A tokenizer turns every `<|im_end|>` into the token that ends a turn, even inside a message. So each such name in a
message is replaced by a private-use character before the template is rendered, and tokenised in pieces afterwards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from mlx_loopai.data.conversation import Message, may_be_private

# Names of control tokens in the supported models.
USUAL_NAME = re.compile(
    r"<\|[a-z][a-z0-9_]{2,30}\|>|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>|\[\|[a-z]{4,12}\|\]"
)

# Plane 15 is private: no text that was written for people holds a character of it.
_FIRST = 0xF0000


class SpecialNames:
    """The names of a tokenizer's control tokens."""

    def __init__(self, names: Sequence[str]) -> None:
        # The longest first, so that none is found inside another.
        self._names = sorted({name for name in names if len(name) > 1}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self._names))) if self._names else None
        self._places = {name: chr(_FIRST + at) for at, name in enumerate(self._names)}
        self._hidden = re.compile(f"([{chr(_FIRST)}-{chr(_FIRST + max(0, len(self._names) - 1))}])")

    @staticmethod
    def of(tokenizer: Any, scaffold: str) -> SpecialNames:
        """Those of a Hugging Face tokenizer, or of mlx-lm's wrapper around one.

        `scaffold`: what the chat template writes around turns. An added token in it counts, whatever its file says.
        """
        added = (getattr(tokenizer, "added_tokens_decoder", None) or {}).values()
        return SpecialNames([str(token) for token in added if token.special or str(token) in scaffold])

    def found(self, text: str) -> list[str]:
        """The names that `text` holds, in order."""
        return self._pattern.findall(text) if self._pattern else []

    def hide(self, text: str) -> str:
        """`text` with each name as one private character."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda match: self._places[match[0]], self._hidden.sub("", text))

    def hidden(self, message: Message) -> Message:
        """The message with the names hidden in everything that its author wrote."""
        if not (message.tool_calls or self._touches(message.content + message.thinking + message.name)):
            return message
        calls = message.tool_calls
        if calls and self.found(calls):
            # Inside JSON text a name may be written with escapes.
            calls = self.hide(json.dumps(json.loads(calls), ensure_ascii=False))
        hidden = replace(
            message,
            content=self.hide(message.content),
            thinking=self.hide(message.thinking),
            tool_calls=calls,
            name=self.hide(message.name),
        )
        return message if hidden == message else hidden

    def _touches(self, text: str) -> bool:
        """Whether `hide` may change `text`."""
        return self._pattern is not None and (bool(self._pattern.search(text)) or may_be_private(text))

    def pieces(self, text: str) -> Iterator[str]:
        """`text` in parts that are safe to tokenise one by one: a hidden name comes back as two halves."""
        for part in self._hidden.split(text):
            if len(part) == 1 and _FIRST <= ord(part) < _FIRST + len(self._names):
                name = self._names[ord(part) - _FIRST]
                yield from (name[:2], name[2:]) if len(name) > 2 else (name[:1], name[1:])
            elif part:
                yield part
