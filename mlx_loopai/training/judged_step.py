"""Preference losses in the usual optimizer step: their gradient, written as a weight for every token of an answer.

A judged answer is one half of a pair, or an answer that is labelled good or bad. Its loss depends on the model through
the answer's summed log-probability alone. So one pass without gradient scores the answers, and minus the derivative of
the loss by a score is the weight of every token of that answer in the cross-entropy that the step computes anyway. No
pass needs both answers of a pair at once, so a pair needs no more memory than a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_loopai.config import PreferenceOptions
from mlx_loopai.evaluation.perplexity import batch_nll
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.models.pass_sizes import DEFAULT_CHUNK_ROWS
from mlx_loopai.training.drawn_step import weigh_drawn
from mlx_loopai.training.judgement import JudgedStep
from mlx_loopai.training.position_step import weigh_positions
from mlx_loopai.training.preference import Answers, Floats, answer_losses, pair_losses

_Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class _Scored:
    """The judged answers of a step, N in all. `batch`, `row`: where each is."""

    answers: Answers
    good: npt.NDArray[np.bool_]
    pair: npt.NDArray[np.int32]
    batch: _Indices
    row: _Indices

    def split(self) -> tuple[_Indices, _Indices, _Indices]:
        """(the better answers of pairs, the worse in the same order, the answers of no pair), as indices."""
        numbers, counts = np.unique(self.pair, return_counts=True)
        paired = np.isin(self.pair, numbers[counts == 2])
        order = np.argsort(self.pair, kind="stable")
        return order[(paired & self.good)[order]], order[(paired & ~self.good)[order]], np.flatnonzero(~paired)

    def part(self, indices: _Indices) -> Answers:
        return Answers(*(values[indices] for values in vars(self.answers).values()))


def weigh_judged(
    model: nn.Module,
    batches: Sequence[MicroBatch],
    options: PreferenceOptions,
    chunk_rows: int = DEFAULT_CHUNK_ROWS,
) -> JudgedStep:
    """The step's micro-batches with the weights of judged answers; the same ones where nothing was judged.

    Together the judged answers of a step count as much as their tokens would as ordinary rows. Every pair, and every
    answer that is not in a pair, has an equal share of that.
    """
    if any(batch.candidates is not None for batch in batches):  # a run learns from them, or from whole answers
        return weigh_positions(model, batches, options, chunk_rows)
    if any(batch.advantages is not None for batch in batches):
        return weigh_drawn(model, batches, options.ratio_clip, chunk_rows)
    if all(batch.judged is None for batch in batches):
        return JudgedStep(list(batches))
    scored = _score(model, batches, chunk_rows)
    chosen, rejected, single = scored.split()
    baseline = _baseline(model, batches, scored, chunk_rows) if options.objective == "kto" else 0.0
    pairs = pair_losses(options, scored.part(chosen), scored.part(rejected), baseline)
    slopes, total = np.zeros(len(scored.pair)), float(pairs.losses.sum())
    slopes[chosen], slopes[rejected] = pairs.by_chosen, pairs.by_rejected
    if len(single):
        alone = answer_losses(options, scored.part(single), scored.good[single], baseline)
        slopes[single] = alone.by_answer
        total += float(alone.losses.sum())
    scale = _counted(batches, scored) / (len(chosen) + len(single))
    found = _with_weights(batches, scored, -scale * slopes)
    surrogate = float(slopes @ scored.answers.log_probability)
    won = scored.answers.gain[chosen] - scored.answers.gain[rejected]
    told = options.needs_reference and len(won) > 0
    return JudgedStep(
        batches=found,
        correction=scale * (total - surrogate),
        pair_accuracy=float((won > 0).mean()) if told else None,
        margin=float(won.mean()) if told else None,
    )


def _score(model: nn.Module, batches: Sequence[MicroBatch], chunk_rows: int) -> _Scored:
    found: list[tuple[npt.NDArray[np.void], _Indices, Floats, Floats]] = []
    places = []
    for number, batch in enumerate(batches):
        if batch.judged is None:
            continue
        rows = np.flatnonzero(batch.judged["pair"] >= 0)
        part = MicroBatch(batch.ids[rows], batch.supervised[rows])
        tokens = part.supervised[:, 1:].sum(axis=1).astype(np.float64)
        found.append((batch.judged[rows], rows, -batch_nll(model, part, chunk_rows), tokens))
        places += [number] * len(rows)
    marks, rows, likely, tokens = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    answers = Answers(likely, marks["reference"], tokens)
    return _Scored(answers=answers, good=marks["good"], pair=marks["pair"], batch=np.array(places), row=rows)


def _counted(batches: Sequence[MicroBatch], scored: _Scored) -> float:
    """What the tokens of all judged answers count together as ordinary ones."""
    own = [batch.supervised if batch.weights is None else batch.weights for batch in batches]
    return float(sum(own[batch][row, 1:].sum() for batch, row in zip(scored.batch, scored.row, strict=True)))


def _with_weights(batches: Sequence[MicroBatch], scored: _Scored, weights: Floats) -> list[MicroBatch]:
    """`batches` whose judged rows have `weights` [N] at every supervised token."""
    found = [
        batch.supervised.astype(np.float32) if batch.weights is None else batch.weights.copy() for batch in batches
    ]
    for batch, row, weight in zip(scored.batch, scored.row, weights, strict=True):
        found[batch][row] = weight * batches[batch].supervised[row]
    return [
        batch if batch.judged is None else replace(batch, weights=own)
        for batch, own in zip(batches, found, strict=True)
    ]


def _baseline(model: nn.Module, batches: Sequence[MicroBatch], scored: _Scored, chunk_rows: int) -> float:
    """z of kto, which estimates KL(policy || base) in nats, at least 0; no gradient flows through it.

    It is how much likelier, on average, the answers became after prompts that are not their own: every prompt of the
    step is given the next one's answer. 0 in a step with a single answer.
    """
    count = len(scored.row)
    if count < 2:
        return 0.0
    rows = [_Tokens.of(batches[batch], row) for batch, row in zip(scored.batch, scored.row, strict=True)]
    gained = 0.0
    for prompt, answer in zip(rows, [*rows[1:], rows[0]], strict=True):
        ids = np.concatenate([prompt.prompt, answer.answer])[None]
        supervised = np.arange(ids.shape[1])[None] >= len(prompt.prompt)
        crossed = MicroBatch(ids, supervised)
        with adapter_disabled(model):
            before = batch_nll(model, crossed, chunk_rows)[0]
        gained += before - batch_nll(model, crossed, chunk_rows)[0]
    return max(0.0, float(gained) / count)


@dataclass(frozen=True, eq=False)
class _Tokens:
    """A row's tokens before the judged answer, and from there to its last."""

    prompt: npt.NDArray[np.int32]
    answer: npt.NDArray[np.int32]

    @staticmethod
    def of(batch: MicroBatch, row: int) -> _Tokens:
        targets = np.flatnonzero(batch.supervised[row])
        return _Tokens(batch.ids[row, : targets[0]], batch.ids[row, targets[0] : targets[-1] + 1])
