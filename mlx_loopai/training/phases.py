"""What a run trains on, phase by phase: rows drawn from a mixture, rehearsal added, cut into optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mlx_loopai.config import PhaseSettings, RunConfig, TrainOptions
from mlx_loopai.data.batches import (
    batch_of,
    choose_widths,
    padded_width,
    plan_mixed_steps,
    plan_steps,
    with_candidates,
)
from mlx_loopai.data.chosen_rows import ChosenRows, Column, column_of, longest_of
from mlx_loopai.data.mixture import draw, with_replay
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.guards.guard import guard_of
from mlx_loopai.models.micro_batch import JUDGED, MicroBatch
from mlx_loopai.training.objective import Objective


@dataclass(frozen=True)
class Phase:
    """One phase of a run: its rows, cut into optimizer steps.

    steps: each a list of micro-batches, each a list of indices into `rows`. widths: the padded lengths that a batch may
    have, in tokens. strength: the factor of the penalty in the loss.
    """

    name: str
    rows: Sequence[TokenRow]
    steps: Sequence[Sequence[Sequence[int]]]
    widths: tuple[int, ...]
    learning_rate: float
    strength: float
    objective: Objective

    def prompts(self, step: int) -> list[TokenRow]:
        """The rows of a step that have no answer."""
        rows = [self.rows[index] for micro in self.steps[step] for index in micro]
        return [row for row in rows if row.wishes is not None]

    def batches(self, step: int, guards: float = 1.0, drawn: Sequence[MicroBatch] = ()) -> list[MicroBatch]:
        """The micro-batches of optimizer step `step` of this phase, weighted as its objective says.

        guards: factor on what the guards weigh by their configuration. drawn: the answers to the step's prompts.
        """
        found = [batch for micro in self.steps[step] for batch in self._batches(micro)] + list(drawn)
        if not found:
            return []
        return self.objective.scaled(guards).weigh(found)

    def _batches(self, micro: Sequence[int]) -> list[MicroBatch]:
        """The rows of `micro`, and in a batch of their own the worse answers of its pairs."""
        known = [(index, row) for index in micro if (row := self.rows[index]).wishes is None]
        if not known:
            return []
        rows = [row for _, row in known]
        numbers = [index if row.judged and row.candidates is None else -1 for index, row in known]
        found = [_marked(with_candidates(batch_of(rows, self.widths), rows), rows, numbers, good=True)]
        if rejected := [row.rejected for row in rows if row.rejected is not None]:
            paired = [index for index, row in known if row.rejected is not None]
            found.append(_marked(batch_of(rejected, self.widths), rejected, paired, good=False))
        return found

    @property
    def real_token_share(self) -> float:
        """Tokens of rows over tokens computed, padding included."""
        answers = column_of(self.rows, "tokens"), column_of(self.rows, "rejected")  # each is a batch of its own
        real = computed = 0
        for micro in (micro for step in self.steps for micro in step):
            for tokens in answers:
                lengths = tokens[list(micro)]
                lengths = lengths[lengths > 0]
                if len(lengths):
                    real += int(lengths.sum())
                    computed += len(lengths) * padded_width(int(lengths.max()), self.widths)
        return real / computed

    @property
    def supervised_token_share(self) -> float:
        """Supervised tokens over tokens of rows."""
        names: tuple[Column, ...] = ("supervised", "tokens", "rejected")
        supervised, tokens, rejected = (int(column_of(self.rows, name).sum()) for name in names)
        return supervised / (tokens + rejected)


def plan_phases(
    config: RunConfig, rows: Mapping[str, Sequence[TokenRow]], rehearsal: Sequence[TokenRow], micro_tokens: int
) -> list[Phase]:
    """Every phase of a run with its rows and steps; the same configuration and rows give the same phases.

    With `train.max_steps` the phases together have exactly that many steps: each phase's share of them follows from its
    size, and data repeat where they run out. Every step has `rows_per_step` rows: what a pass over the data leaves over
    goes into the first steps of the next.
    """
    train, replay, settings = config.train, config.replay, config.trained_phases

    def drawn(number: int, repeat: int) -> Sequence[TokenRow]:
        # Primes, so that no two draws of a run share a seed.
        seed = train.seed + 7919 * number + 104729 * repeat
        return _draw(settings[number], train.epochs, rows, rehearsal, seed)

    draws = [[drawn(number, repeat=0)] for number in range(len(settings))]
    wanted = _steps_per_phase(train, [len(first) for (first,) in draws])
    for number, own in enumerate(draws):
        while wanted and sum(map(len, own)) < wanted[number] * train.rows_per_step:
            own.append(drawn(number, repeat=len(own)))
    # One set of widths for the whole run, repeats included: a later phase compiles nothing new, and a row that only a
    # repeat draws may be the longest.
    widths = choose_widths(np.concatenate([_answer_lengths(some) for own in draws for some in own]))
    cutter = _Cutter(train.rows_per_step, micro_tokens, widths, replay.mixes_steps)
    token_divergence = guard_of(config.penalty).token_divergence
    phases = []
    for number, (phase, own) in enumerate(zip(settings, draws, strict=True)):
        steps = cutter.steps(own, train.seed + number)
        limit = len(steps) if wanted is None else wanted[number]
        if limit:
            phases.append(
                Phase(
                    name=phase.name,
                    rows=own[0] if len(own) == 1 else ChosenRows.joined(own),
                    steps=steps[:limit],
                    widths=widths,
                    learning_rate=phase.learning_rate,
                    strength=phase.penalty_strength,
                    objective=Objective.of(replay, phase.penalty_strength * token_divergence),
                )
            )
    return phases


def learning_rate(train: TrainOptions, peak: float, step: int, steps: int) -> float:
    """Learning rate of step `step` (from 0) of a phase of `steps`: linear warm-up to `peak`, then the schedule to 0."""
    warmup = min(train.warmup, steps // 10)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    if train.schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * done))
    return peak * (1 - done) if train.schedule == "linear" else peak


def rate_still_to_fall(train: TrainOptions, step: int, steps: int) -> float:
    """Share of a phase's peak learning rate that the schedule will yet take away after `step` of `steps`, in [0, 1]."""
    warmup = min(train.warmup, steps // 10)
    return learning_rate(train, 1.0, max(step, warmup), steps) - learning_rate(train, 1.0, steps, steps)


def _marked(batch: MicroBatch, rows: Sequence[TokenRow], numbers: Sequence[int], good: bool) -> MicroBatch:
    """`batch`, made of `rows`, with how each was judged; `good` where it has no label. numbers: see `JUDGED`."""
    if all(number < 0 for number in numbers):
        return batch
    marks = [
        (number, good if row.good is None else row.good, row.reference)
        for number, row in zip(numbers, rows, strict=True)
    ]
    return replace(batch, judged=np.array(marks, JUDGED))


def _draw(
    phase: PhaseSettings,
    epochs: float,
    rows: Mapping[str, Sequence[TokenRow]],
    rehearsal: Sequence[TokenRow],
    seed: int,
) -> Sequence[TokenRow]:
    weights = {name: weight * epochs for name, weight in phase.mixture.items()}
    found = draw({name: rows[name] for name in weights}, weights, seed)
    if not (rehearsal and phase.replay_share > 0):
        return found
    return with_replay(found, rehearsal, phase.replay_share, seed)


def _answer_lengths(rows: Sequence[TokenRow]) -> npt.NDArray[np.int32]:
    """Tokens of every row, and of every worse answer of a pair."""
    rejected = column_of(rows, "rejected")
    return np.concatenate([column_of(rows, "tokens"), rejected[rejected > 0]])


def _grouping_lengths(rows: Sequence[TokenRow]) -> npt.NDArray[np.int32]:
    """[rows] the lengths by which rows come together in a step. Prompts without an answer are all alike: their answers
    are put into batches once they are drawn, and a step should not have prompts of one kind only.
    """
    lengths, asked = longest_of(rows), column_of(rows, "asked")
    return np.where(asked, lengths[asked].max(initial=1), lengths)


@dataclass(frozen=True)
class _Cutter:
    """Cuts rows into optimizer steps. mixes: each step has its share of the rehearsal rows."""

    rows_per_step: int
    micro_tokens: int
    widths: tuple[int, ...]
    mixes: bool

    def steps(self, draws: Sequence[Sequence[TokenRow]], seed: int) -> Sequence[list[list[int]]]:
        """Steps over the rows of all draws, one after the other, as indices into their concatenation."""
        if len(draws) == 1:
            return self._cut(_grouping_lengths(draws[0]), column_of(draws[0], "rehearsal"), seed)
        lengths = np.concatenate([_grouping_lengths(drawn) for drawn in draws])
        rehearsal = np.concatenate([column_of(drawn, "rehearsal") for drawn in draws])
        steps: list[list[list[int]]] = []
        left: list[int] = []
        start = 0
        for repeat, drawn in enumerate(draws):
            pool = np.concatenate([np.array(left, np.int64), np.arange(start, start + len(drawn))])
            start += len(drawn)
            cut = self._cut(lengths[pool], rehearsal[pool], seed + 1000 * repeat)
            found = [[pool[micro].tolist() for micro in step] for step in cut]
            left = []
            if repeat < len(draws) - 1 and sum(map(len, found[-1])) < self.rows_per_step:
                left = [index for micro in found.pop() for index in micro]
            steps += found
        return steps

    def _cut(
        self, lengths: npt.NDArray[np.int32], rehearsal: npt.NDArray[np.bool_], seed: int
    ) -> Sequence[list[list[int]]]:
        if self.mixes and rehearsal.any():
            return plan_mixed_steps(lengths, rehearsal, self.rows_per_step, self.micro_tokens, seed, self.widths)
        return plan_steps(lengths, self.rows_per_step, self.micro_tokens, seed, widths=self.widths)


def _steps_per_phase(train: TrainOptions, sizes: list[int]) -> list[int] | None:
    if not train.max_steps:
        return None
    # Cumulative rounding: the shares add up to max_steps exactly.
    edges = [round(train.max_steps * sum(sizes[:end]) / max(1, sum(sizes))) for end in range(len(sizes) + 1)]
    return [after - before for before, after in pairwise(edges)]
