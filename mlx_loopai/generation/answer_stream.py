"""Turns a model's pieces into the text that a reader sees: up to a stop string, and through the text filter."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_loopai.generation.constraint import Tally
from mlx_loopai.generation.engine import Piece, stream
from mlx_loopai.generation.request import Request
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.text.alphabet import Scripts
from mlx_loopai.text.filter import RULES, Filter, Policy
from mlx_loopai.text.measures import purity


def policy_of(scripts: Scripts) -> Policy:
    """The policy of a filter that removes what a constraint of these scripts cannot see: markup, links, code.

    It keeps what the scripts allow, since removing the Latin words of `loanwords` would leave holes.
    """
    parts = scripts.parts
    return Policy(
        latin="keep" if scripts.is_off or parts & {"latin", "loanwords"} else "acronyms",
        han="keep" if scripts.is_off or "han" in parts else "gloss" if "gloss" in parts else "drop",
        emoji="keep" if scripts.is_off or "emoji" in parts else "drop",
    )


class Stops:
    """Ends a stream before the first of some strings, however the stream was cut into pieces."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.reached = False

    def feed(self, text: str) -> str:
        """The text that no later input can make part of a stop string; nothing after one."""
        if self.reached or not self._stops:
            return "" if self.reached else text
        self._held += text
        # The stop string that is complete first counts, whatever else has begun; of those that end together, the
        # longest.
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.reached = True
            return self._released(min(found)[1])
        return self._released(len(self._held) - self._begun())

    def close(self) -> str:
        """What was held back."""
        return self._released(len(self._held))

    def _released(self, end: int) -> str:
        text = self._held[:end]
        self._held = "" if self.reached else self._held[end:]
        return text

    def _begun(self) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        lengths = (n for stop in self._stops for n in range(len(stop) - 1, 0, -1) if self._held.endswith(stop[:n]))
        return max(lengths, default=0)


@dataclass(frozen=True)
class Text:
    """A text that was written, and how it came about.

    text: as a reader gets it, after the filter. written: as the model wrote it, up to a stop string.
    tokens: what the model chose, without the end-of-text token.
    finished: the model or a stop string ended it; False when `max_tokens`, a reader or a time limit cut it.
    adapter: an adapter was on while it was written.
    removed: filter rule -> how often it applied, for rules that did.
    masked_mass, argmax_masked: how often the constraint stepped in, see `constraint.Tally`.
    """

    text: str
    written: str = field(repr=False)
    finished: bool
    prompt_tokens: int
    tokens: tuple[int, ...] = field(repr=False)
    seconds: float = field(compare=False)
    seed: int
    scripts: str
    masked_mass: float
    argmax_masked: float
    adapter: bool = False
    removed: Mapping[str, int] = field(default_factory=dict)

    @property
    def generated_tokens(self) -> int:
        return len(self.tokens)

    @property
    def purity(self) -> float:
        """Hangul letters / letters of `text`, in [0, 1]."""
        return purity(self.text)

    @property
    def tokens_per_s(self) -> float:
        return self.generated_tokens / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """What every command and the server say about a text."""
        return {
            "text": self.text,
            "finished": self.finished,
            "prompt_tokens": self.prompt_tokens,
            "generated_tokens": self.generated_tokens,
            "tokens_per_s": self.tokens_per_s,
            "seed": self.seed,
            "scripts": self.scripts,
            "masked_mass": self.masked_mass,
            "argmax_masked": self.argmax_masked,
            "adapter": self.adapter,
            "purity": self.purity,
            "removed": dict(self.removed),
        }


class Writing:
    """An answer in the making: the model's pieces in, text for a reader out. Call `take` for each piece, then `end`.

    Every answer is accumulated here, whether a stream, a batch or a server writes it.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.tokens: list[int] = []
        self._stops = Stops(request.stops)
        self._filter = None if request.policy is None else Filter(request.policy)
        self._written: list[str] = []
        self._shown: list[str] = []
        self._ended = False
        self._started = time.monotonic()
        self._seconds: float | None = None

    def take(self, piece: Piece) -> str:
        """The text that no later piece can change, as far as it was not shown yet."""
        if piece.token is not None:
            self.tokens.append(piece.token)
        self._ended = piece.finished
        return self._show(self._filtered(self._stops.feed(piece.text)))

    def end(self) -> str:
        """The text that was still held back. Call `take` no more after it."""
        rest = self._filtered(self._stops.close())
        self._seconds = time.monotonic() - self._started
        return self._show(rest + (self._filter.close() if self._filter else ""))

    @property
    def stopped(self) -> bool:
        """True when a stop string was reached: nothing more will be shown."""
        return self._stops.reached

    @property
    def shown(self) -> str:
        """All text that was given out so far."""
        return "".join(self._shown)

    def text(self) -> Text:
        """The result so far. It waits for what the constraint counted on the device."""
        counts = self._filter.removed if self._filter else {}
        request = self.request
        tally = request.tally or Tally()
        return Text(
            text=self.shown,
            written="".join(self._written),
            finished=self._ended or self.stopped,
            prompt_tokens=len(request.prompt),
            tokens=tuple(self.tokens),
            seconds=time.monotonic() - self._started if self._seconds is None else self._seconds,
            seed=request.options.seed,
            scripts=str(request.constraint.scripts) if request.constraint else "off",
            masked_mass=tally.masked_mass,
            argmax_masked=tally.argmax_masked,
            adapter=request.adapter,
            removed={rule: counts[rule] for rule in RULES if counts.get(rule)},
        )

    def _filtered(self, text: str) -> str:
        self._written.append(text)
        return text if self._filter is None or not text else self._filter.feed(text)

    def _show(self, text: str) -> str:
        self._shown.append(text)
        return text


def write(loaded: LoadedModel, writing: Writing, draft: LoadedModel | None = None) -> Iterator[str]:
    """The text of one answer as it comes; `writing` knows the rest. See `engine.stream`."""
    with contextlib.closing(stream(loaded, writing.request, draft)) as pieces:
        for piece in pieces:
            yield writing.take(piece)
            if writing.stopped:
                break
    yield writing.end()
