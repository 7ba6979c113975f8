"""A conversation with a model: drops turns that no longer fit, and reads only the tokens that are new."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from mlx_loopai.config import GenerationOptions
from mlx_loopai.data.conversation import showing
from mlx_loopai.data.images import Picture
from mlx_loopai.data.records import Record
from mlx_loopai.errors import InputError
from mlx_loopai.generation.answer_stream import Writing, write
from mlx_loopai.generation.kept_conversation import Conversation
from mlx_loopai.generation.prompts import Prompt, single_prompt
from mlx_loopai.generation.session import Session, answer_room, fitted
from mlx_loopai.language import tr
from mlx_loopai.models.prompt_cache import KeptCache
from mlx_loopai.text.ending import end_near

# Several turns are dropped at once, since everything after a dropped turn must be read again.
_KEPT_SHARE = 0.75


@dataclass(frozen=True)
class ChatOptions:
    """How answers are written. context_tokens: room for prompt and answer together.

    length_chars: an answer ends with the sentence that reaches this length; 0: where the model ends it.
    """

    generation: GenerationOptions
    context_tokens: int
    examples: Sequence[Record] = ()
    length_chars: int = 0


@dataclass(eq=False)
class Turn:
    """An answer in the making: iterate over `pieces`; `writing` holds the result when they have ended.

    left_out: how many of the oldest exchanges were dropped to make room. read_tokens: tokens of the prompt that were
    not in the cache. reached: whether it ended at the wished length.
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
        # Which pictures the cached tokens are of, since all pictures have the same tokens.
        self._pictures_read: tuple[str, ...] = ()
        self.conversation = Conversation(session.system_prompt)
        # What the next request shows.
        self.pictures: tuple[Picture, ...] = ()
        self._skipped = 0

    def begin(self, conversation: Conversation) -> None:
        """Continue another conversation: an earlier one, or one that was loaded."""
        self.conversation, self._skipped = conversation, 0

    def set_generation(self, options: GenerationOptions) -> None:
        """Write the answers to come as `options` say."""
        self.options = dataclasses.replace(self.options, generation=options)

    def show(self, picture: Picture) -> None:
        """Let the next request show `picture` too.

        Raises: InputError for a file that is not a picture, or a model that reads none.
        """
        eyes = self._session.tools.eyes
        if eyes is None:
            raise InputError(
                tr(
                    "{picture}: this model reads text only; use a model that sees, such as Qwen3-VL, or give this one"
                    " an encoder with `mlx-loopai vision add`",
                    picture=picture.name,
                )
            )
        # Every later request shows it again, and the file may be gone by then. A damaged file is refused now.
        held = Picture(picture.name, data=picture.content)
        eyes.sight.pixels(held)
        self.pictures = (*self.pictures, held)

    def ask(self, text: str) -> Turn:
        """The answer to `text`, which joins the conversation with what was written of it, also when it is stopped.

        It shows the `pictures` that wait. Raises: InputError for a request that is empty or does not fit.
        """
        single_prompt(text)
        asked = self.conversation.with_message(showing(text, self.pictures))
        ids, skipped = self._shortened(asked)
        options = fitted(self.options.generation, len(ids), self.options.context_tokens)
        left_out, self._skipped = skipped - self._skipped, skipped
        options = options.model_copy(update={"seed": options.seed + self.conversation.exchanges})
        shown = self._session.pictures(self._prompt(asked, skipped), self.options.examples)
        request = self._session.request(ids, options, pictures=shown)
        self.pictures = ()
        self._forget_others(request.adapter, tuple(picture.digest for picture in shown))
        prefix = self._cache.prefix(ids)
        writing = Writing(dataclasses.replace(request, prefix=prefix))
        pieces = self._written(writing, asked)
        turn = Turn(left_out=left_out, read_tokens=len(ids) - len(prefix.tokens), writing=writing, pieces=pieces)
        if self.options.length_chars:
            turn.pieces = self._ended(turn, pieces, asked)
        return turn

    def _forget_others(self, adapter: bool, pictures: tuple[str, ...]) -> None:
        """Empty the cache where another one of base and adapter filled it, or where it holds other pictures."""
        if adapter != self._adapter_read or pictures[: len(self._pictures_read)] != self._pictures_read:
            self._cache.forget()
        self._adapter_read, self._pictures_read = adapter, pictures

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
            # Not whole: it ends with a sentence, but the model did not end it.
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
        prompt = self._prompt(asked, skip)
        return self._session.prompt_ids(prompt, self.options.examples, self.options.generation)

    def _prompt(self, asked: Conversation, skip: int) -> Prompt:
        return Prompt(asked.messages(skip), "chat")
