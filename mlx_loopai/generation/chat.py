"""A conversation with a model: its turns, what of them still fits, and answers that read only what is new."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlx_loopai.data.records import Message, Record, read_records
from mlx_loopai.errors import InputError
from mlx_loopai.files import write_whole
from mlx_loopai.generation.answer_stream import Outlet
from mlx_loopai.generation.constraint import Constraint, Tally
from mlx_loopai.generation.engine import stream
from mlx_loopai.generation.prompts import Prompt, single_prompt
from mlx_loopai.generation.request import Request
from mlx_loopai.generation.sampling import SamplingOptions
from mlx_loopai.generation.session import Session
from mlx_loopai.models.prompt_cache import KeptCache
from mlx_loopai.text.filter import Policy

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

    def with_turn(self, role: str, text: str) -> Conversation:
        return dataclasses.replace(self, turns=(*self.turns, Message(role, text)))

    def undone(self) -> Conversation:
        """Without the last exchange."""
        return dataclasses.replace(self, turns=self.turns[:-2])

    def save(self, path: Path) -> None:
        """Write it as one row that training reads, too. Raises: InputError rather than write over anything else."""
        if not self.turns:
            raise InputError("there is nothing to save yet")
        if path.exists():
            Conversation.load(path)
        row = {"messages": [dataclasses.asdict(message) for message in self.messages()]}
        write_whole(path, json.dumps(row, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Conversation:
        """The conversation that `save` wrote. Raises: InputError when the file holds something else."""
        records = read_records(path)
        messages = records[0].messages
        system = messages[0].content if messages[0].role == "system" else ""
        turns = messages[1:] if system else messages
        roles = [message.role for message in turns]
        if len(records) > 1 or roles != ["user", "assistant"] * (len(turns) // 2):
            raise InputError(f"{path}: not a saved chat: one row with turns of user and assistant; name another file")
        return cls(system, turns)


@dataclass(frozen=True)
class ChatOptions:
    """How answers are written. policy: of the filter, None for none. `context_tokens` hold prompt and answer."""

    sampling: SamplingOptions
    context_tokens: int
    constraint: Constraint | None = None
    policy: Policy | None = None
    examples: Sequence[Record] = ()


@dataclass(eq=False)
class Turn:
    """An answer in the making: iterate over it for its text; the other fields are final when it has ended.

    left_out: how many of the oldest exchanges left for it. read_tokens: of the prompt, those that had to be computed.
    """

    left_out: int
    prompt_tokens: int
    read_tokens: int
    seed: int
    outlet: Outlet = field(repr=False)
    pieces: Generator[str, None, None] = field(init=False, repr=False)
    tally: Tally = field(default_factory=Tally, repr=False)
    generated_tokens: int = 0
    finished: bool = False
    seconds: float = 0.0

    def __iter__(self) -> Iterator[str]:
        return self.pieces


class Chat:
    """A model in conversation. The keys and values of what was said are kept from turn to turn."""

    def __init__(self, session: Session, options: ChatOptions) -> None:
        self._session, self._options = session, options
        self._cache = KeptCache(session.loaded.model)
        self.conversation = Conversation(session.system_prompt)
        self._skipped = 0

    def begin(self, conversation: Conversation) -> None:
        """Go on from another conversation: an earlier one, or one that was loaded."""
        self.conversation, self._skipped = conversation, 0

    def ask(self, text: str) -> Turn:
        """The answer to `text`, which joins the conversation with what was written of it, also when it is stopped.

        Raises: InputError for a request that is empty or does not fit.
        """
        single_prompt(text)
        asked = self.conversation.with_turn("user", text)
        before = self._skipped
        ids = self._fitted(asked)
        prefix = self._cache.prefix(ids)
        sampling = self._options.sampling
        seed = sampling.seed + self.conversation.exchanges
        turn = Turn(
            self._skipped - before,
            len(ids),
            len(ids) - len(prefix.tokens),
            seed,
            Outlet(policy=self._options.policy),
        )
        sampling = dataclasses.replace(sampling, seed=seed)
        request = Request(ids, sampling, self._options.constraint, turn.tally, prefix=prefix)
        turn.pieces = self._written(turn, request, asked)
        return turn

    def _written(self, turn: Turn, request: Request, asked: Conversation) -> Generator[str, None, None]:
        started = time.perf_counter()
        tokens = list(request.prompt)
        whole = False
        try:
            for piece in stream(self._session.loaded, request):
                if piece.token is not None:
                    tokens.append(piece.token)
                    turn.generated_tokens += 1
                turn.finished = piece.finished
                yield turn.outlet.feed(piece.text)
            whole = True
            yield turn.outlet.close()
        finally:
            turn.seconds = time.perf_counter() - started
            if whole:
                self._cache.keep(tokens)
            else:
                # Stopped in the middle of a step, its layers may be of different lengths.
                self._cache.forget()
            # Nothing was said when it was stopped at once: the next request would follow as a second turn.
            if turn.outlet.text.strip():
                self.conversation = asked.with_turn("assistant", turn.outlet.text)

    def _fitted(self, asked: Conversation) -> list[int]:
        """The prompt's tokens, without as many of the oldest exchanges as it takes to leave room for the answer."""
        context, answer = self._options.context_tokens, self._options.sampling.max_tokens
        ids = self._ids(asked, self._skipped)
        room = context - answer
        if len(ids) <= room:
            return ids
        while len(ids) > _KEPT_SHARE * room and self._skipped < asked.exchanges:
            self._skipped += 1
            ids = self._ids(asked, self._skipped)
        if len(ids) > room:
            raise InputError(
                f"the request has {len(ids)} tokens and an answer may have {answer}, more than the {context} of the "
                "context together; shorten it, or lower `max_tokens`"
            )
        return ids

    def _ids(self, asked: Conversation, skip: int) -> list[int]:
        return self._session.prompt_ids(Prompt(asked.messages(skip), "chat"), self._options.examples)
