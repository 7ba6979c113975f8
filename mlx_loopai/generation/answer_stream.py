"""What a reader gets of an answer as it is written: up to a stop string, and through the text filter."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_loopai.text.alphabet import Scripts
from mlx_loopai.text.filter import RULES, Filter, Policy
from mlx_loopai.text.measures import purity


def policy_of(scripts: Scripts) -> Policy:
    """The filter that takes out what a constraint of these scripts cannot see: markup, links, code.

    What the scripts allow stays: a filter that dropped the Latin words of `loanwords` would leave holes.
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
        # The one that is complete first, whatever else has begun by then; of those that end together the longest.
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


class Outlet:
    """Pieces of an answer in, text to show out: `feed` them, then `close`.

    policy: of the filter; None shows the text as the model wrote it.
    """

    def __init__(self, stops: Sequence[str] = (), policy: Policy | None = None) -> None:
        self._stops = Stops(stops)
        self._filter = None if policy is None else Filter(policy)
        self._shown: list[str] = []

    def feed(self, text: str) -> str:
        return self._show(self._filtered(self._stops.feed(text)))

    def close(self) -> str:
        """What was held back. The outlet must not be fed again."""
        rest = self._filtered(self._stops.close())
        return self._show(rest + (self._filter.close() if self._filter else ""))

    @property
    def stopped(self) -> bool:
        """True when a stop string was reached: nothing more will be shown."""
        return self._stops.reached

    @property
    def text(self) -> str:
        """All that was shown so far."""
        return "".join(self._shown)

    @property
    def purity(self) -> float:
        """Of the text so far, see `text.measures`."""
        return purity(self.text)

    @property
    def removed(self) -> dict[str, int]:
        """Filter rule -> how often it applied; only rules that did."""
        counts = self._filter.removed if self._filter else {}
        return {rule: counts[rule] for rule in RULES if counts.get(rule)}

    def _filtered(self, text: str) -> str:
        return text if self._filter is None or not text else self._filter.feed(text)

    def _show(self, text: str) -> str:
        self._shown.append(text)
        return text
