"""What a run trains on, phase by phase: rows drawn from a mixture, rehearsal added, cut into optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from mlx_loopai.config import PhaseOptions, RunConfig, TrainOptions
from mlx_loopai.data.batches import batch_of, choose_widths, plan_mixed_steps, plan_steps, real_token_share
from mlx_loopai.data.mixture import draw, with_replay
from mlx_loopai.data.tokens import REHEARSAL, TokenRow
from mlx_loopai.guards.guard import guard_of
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.training.objective import Objective


@dataclass(frozen=True)
class Phase:
    """`steps`: optimizer steps, each a list of micro-batches, each a list of indices into `rows`.

    strength: the factor of the penalty in the loss.
    """

    name: str
    rows: tuple[TokenRow, ...]
    steps: tuple[tuple[tuple[int, ...], ...], ...]
    widths: tuple[int, ...]
    learning_rate: float
    strength: float
    objective: Objective

    def batches(self, step: int, guards: float = 1.0) -> list[MicroBatch]:
        """The micro-batches of optimizer step `step` of this phase, weighted as its objective says.

        guards: the factor of what the guards weigh.
        """
        found = [batch_of([self.rows[index] for index in micro], self.widths) for micro in self.steps[step]]
        return self.objective.scaled(guards).weigh(found)

    @property
    def real_token_share(self) -> float:
        """Tokens of rows over tokens computed, padding included."""
        return real_token_share([len(row.ids) for row in self.rows], self.steps, self.widths)

    @property
    def supervised_token_share(self) -> float:
        """Supervised tokens over tokens of rows."""
        return sum(int(row.supervised.sum()) for row in self.rows) / sum(len(row.ids) for row in self.rows)


def plan_phases(
    config: RunConfig, rows: dict[str, list[TokenRow]], rehearsal: Sequence[TokenRow], micro_tokens: int
) -> list[Phase]:
    """Every phase of a run with its rows and steps; the same configuration and rows give the same phases.

    With `train.max_steps` the phases together have exactly that many steps: each phase's share of them follows from its
    size, and data repeat where they run out. Every step has `rows_per_step` rows: what a pass over the data leaves over
    goes into the first steps of the next.
    """
    options = config.phases or (PhaseOptions(name="train", mixture=dict.fromkeys(rows, 1.0)),)
    first = [_draw(config, option, rows, rehearsal, repeat=0, number=number) for number, option in enumerate(options)]
    wanted = _steps_per_phase(config.train, [len(drawn) for drawn in first])
    draws = [[drawn] for drawn in first]
    for number, option in enumerate(options):
        while wanted and sum(map(len, draws[number])) < wanted[number] * config.train.rows_per_step:
            draws[number].append(_draw(config, option, rows, rehearsal, len(draws[number]), number))
    # One set of widths for the whole run, repeats included: a later phase compiles nothing new, and a row that only a
    # repeat draws may be the longest.
    widths = choose_widths([len(row.ids) for drawn in draws for some in drawn for row in some])
    phases = []
    for number, option in enumerate(options):
        phase_rows = [row for drawn in draws[number] for row in drawn]
        steps = _steps(draws[number], config, micro_tokens, number, widths)
        limit = len(steps) if wanted is None else wanted[number]
        if limit:
            phases.append(_phase(config, option, phase_rows, steps[:limit], widths))
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


def _draw(
    config: RunConfig,
    option: PhaseOptions,
    rows: dict[str, list[TokenRow]],
    rehearsal: Sequence[TokenRow],
    repeat: int,
    number: int,
) -> list[TokenRow]:
    seed = config.train.seed + 7919 * number + 104729 * repeat
    weights = {name: weight * config.train.epochs for name, weight in option.mixture.items()}
    found = draw({name: rows[name] for name in weights}, weights, seed)
    share = config.replay.share if option.replay_share is None else option.replay_share
    return with_replay(found, list(rehearsal), share, seed) if rehearsal and share > 0 else found


def _cut(
    rows: Sequence[TokenRow], config: RunConfig, micro_tokens: int, salt: int, widths: tuple[int, ...]
) -> list[list[list[int]]]:
    lengths, seed = [len(row.ids) for row in rows], config.train.seed + salt
    rehearsal = [row.category == REHEARSAL for row in rows]
    if Objective.of(config.replay).needs_mixed_steps and any(rehearsal):
        return plan_mixed_steps(lengths, rehearsal, config.train.rows_per_step, micro_tokens, seed, widths)
    return plan_steps(lengths, config.train.rows_per_step, micro_tokens, seed, widths=widths)


def _steps(
    draws: Sequence[Sequence[TokenRow]], config: RunConfig, micro_tokens: int, number: int, widths: tuple[int, ...]
) -> list[list[list[int]]]:
    """Steps over the rows of all draws, one after the other, as indices into their concatenation."""
    rows = [row for drawn in draws for row in drawn]
    steps: list[list[list[int]]] = []
    left: list[int] = []
    start = 0
    for repeat, drawn in enumerate(draws):
        pool = [*left, *range(start, start + len(drawn))]
        start += len(drawn)
        cut = _cut([rows[index] for index in pool], config, micro_tokens, number + 1000 * repeat, widths)
        found = [[[pool[index] for index in micro] for micro in step] for step in cut]
        left = []
        if repeat < len(draws) - 1 and sum(map(len, found[-1])) < config.train.rows_per_step:
            left = [index for micro in found.pop() for index in micro]
        steps += found
    return steps


def _steps_per_phase(train: TrainOptions, sizes: list[int]) -> list[int] | None:
    if not train.max_steps:
        return None
    # Cumulative rounding: the shares add up to max_steps exactly.
    edges = [round(train.max_steps * sum(sizes[:end]) / max(1, sum(sizes))) for end in range(len(sizes) + 1)]
    return [after - before for before, after in pairwise(edges)]


def _phase(
    config: RunConfig, option: PhaseOptions, rows: list[TokenRow], steps: list[list[list[int]]], widths: tuple[int, ...]
) -> Phase:
    strength = config.penalty.strength if option.penalty_strength is None else option.penalty_strength
    return Phase(
        name=option.name,
        rows=tuple(rows),
        steps=tuple(tuple(tuple(micro) for micro in step) for step in steps),
        widths=widths,
        learning_rate=option.learning_rate or config.train.learning_rate,
        strength=strength,
        objective=Objective.of(config.replay, strength * guard_of(config).token_divergence),
    )
