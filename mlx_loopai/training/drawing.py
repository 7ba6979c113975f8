"""Draws answers to a step's prompts from the model that is being trained, and says how good each of them is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_loopai.config import PreferenceOptions, SamplingOptions
from mlx_loopai.data.batches import batch_of, padded_width
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.evaluation.perplexity import nll
from mlx_loopai.evaluation.rewards import Reward, reward_of
from mlx_loopai.generation.engine import Generation, generate_batch
from mlx_loopai.language import tr
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.models.modes import evaluating
from mlx_loopai.progress import Advance, ignore
from mlx_loopai.runs.listener import Listener
from mlx_loopai.training.group_loss import advantages, has_spread
from mlx_loopai.training.judgement import PromptReading

# Every width must be compiled.
_WIDTHS = 4
# Held-out prompts are given as many answers together, if they are few: a share of 0.9 is then known to 0.03.
FEWEST_READ = 128


@dataclass(frozen=True)
class Drawn:
    """The answers to the prompts of a step.

    batches: those of groups in which something can be learnt, with their advantages. reward, answer_tokens: means over
    all answers; faultless: the share in which nothing that is checked is wrong; alike: the share of prompts whose
    answers are all equally good, so that nothing is learnt of them.
    """

    batches: tuple[MicroBatch, ...]
    reward: float
    faultless: float
    answer_tokens: float
    alike: float

    @property
    def figures(self) -> dict[str, float]:
        """What the log says of a step beside its loss."""
        return {name: value for name, value in vars(self).items() if name != "batches"}


@dataclass(frozen=True)
class Room:
    """How many rows and tokens a run may work on at once.

    answered_rows: answers that are written together. micro_tokens: padded tokens of a micro-batch. longest: tokens of
    the longest prompt.
    """

    answered_rows: int
    micro_tokens: int
    longest: int


class Drawer:
    """Answers prompts with the model as it is now. The same seed, step and weights give the same answers."""

    def __init__(self, loaded: LoadedModel, options: PreferenceOptions, seed: int, room: Room) -> None:
        self._loaded, self._options, self._seed, self._room = loaded, options, seed, room
        longest = room.longest + options.answer_tokens  # with the token that ends it
        self._widths = tuple(sorted({-(-longest * part // _WIDTHS) for part in range(1, _WIDTHS + 1)}))
        # Of the rows that were trained on so far: tokens, padded ones, and those of answers.
        self._counts = np.zeros(3)

    def draw(self, prompts: Sequence[TokenRow], step: int) -> Drawn:
        """Answers to the `prompts` of optimizer step `step`, ready to be learnt from. There is at least one prompt."""
        rows, written, rewards = self._answered(self._repeated(prompts, self._options.group), (self._seed, step))
        values = np.array([one.value for one in rewards]).reshape(len(prompts), -1)
        own, learnt = advantages(values), has_spread(values)
        kept = np.flatnonzero(np.repeat(learnt, self._options.group)).tolist()
        return Drawn(
            batches=tuple(self._batches([rows[place] for place in kept], own.ravel()[kept])),
            **_means(written, rewards),
            alike=float(1 - learnt.mean()),
        )

    def read(self, prompts: Sequence[TokenRow], listener: Listener) -> PromptReading:
        """How the model answers held-out `prompts`, always with the same seed, and how far these answers are from what
        the base would write. There is at least one prompt. It is a stage of its own.
        """
        asked = self._repeated(prompts, answers_read(self._options, len(prompts)))
        listener.stage(tr("held-out prompts"), len(asked))
        rows, written, rewards = self._answered(asked, (self._seed,), listener.advance)
        model = self._loaded.model
        now = nll(model, rows)
        with adapter_disabled(model):
            base = nll(model, rows)
        mx.clear_cache()
        return PromptReading(
            **_means(written, rewards),
            divergence=float((base.nll.sum() - now.nll.sum()) / now.tokens.sum()),
            prompts=len(prompts),
        )

    @property
    def real_token_share(self) -> float:
        """Tokens of drawn rows over tokens computed, padding included; 0 before the first."""
        return float(self._counts[0] / max(1, self._counts[1]))

    @property
    def supervised_token_share(self) -> float:
        """Tokens of answers over tokens of drawn rows; 0 before the first."""
        return float(self._counts[2] / max(1, self._counts[0]))

    @staticmethod
    def _repeated(prompts: Sequence[TokenRow], times: int) -> list[TokenRow]:
        return [row for row in prompts for _ in range(times)]

    def _answered(
        self, asked: Sequence[TokenRow], key: tuple[int, ...], on_progress: Advance = ignore
    ) -> tuple[list[TokenRow], list[Generation], list[Reward]]:
        """(rows of prompt and answer, the answers, their rewards), in order. key: of the seed."""
        options = self._options
        sampling = SamplingOptions(
            temperature=options.temperature,
            top_p=1.0,
            max_tokens=options.answer_tokens,
            seed=int(np.random.SeedSequence(key).generate_state(1)[0]),
        )
        mx.clear_cache()  # the buffers of a step have other sizes
        with evaluating(self._loaded.model):
            written = generate_batch(
                self._loaded, [row.ids.tolist() for row in asked], sampling, on_progress, self._room.answered_rows
            )
        mx.clear_cache()
        rewards = [
            reward_of(one.text, one.finished, row.wishes, options)
            for row, one in zip(asked, written, strict=True)
            if row.wishes is not None
        ]
        return [_answered(row, one) for row, one in zip(asked, written, strict=True)], written, rewards

    def _batches(self, rows: Sequence[TokenRow], own: npt.NDArray[np.float64]) -> list[MicroBatch]:
        """Micro-batches of `rows` with their advantages `own`, narrow ones first."""
        found = []
        widths = np.array([padded_width(len(row.ids), self._widths) for row in rows], np.int64)
        for width in np.unique(widths).tolist():
            at, height = np.flatnonzero(widths == width), max(1, self._room.micro_tokens // width)
            for places in np.split(at, range(height, len(at), height)):
                batch = batch_of([rows[place] for place in places], self._widths)
                found.append(replace(batch, advantages=own[places].astype(np.float32)))
        self._counts += [
            sum(len(row.ids) for row in rows),
            sum(batch.ids.size for batch in found),
            sum(int(batch.supervised.sum()) for batch in found),
        ]
        return found


def _means(written: Sequence[Generation], rewards: Sequence[Reward]) -> dict[str, float]:
    """What is told of answers, by its name in `Drawn` and `PromptReading`."""
    return {
        "reward": float(np.mean([one.value for one in rewards])),
        "faultless": float(np.mean([one.is_faultless for one in rewards])),
        "answer_tokens": float(np.mean([len(one.tokens) for one in written])),
    }


def answers_read(options: PreferenceOptions, prompts: int) -> int:
    """How many answers each of so many held-out prompts is given."""
    return max(options.group, -(-FEWEST_READ // prompts))


def _answered(prompt: TokenRow, answer: Generation) -> TokenRow:
    """The prompt with its answer, which is learnt with the token that ends it."""
    written = [*answer.tokens, *answer.ending]
    ids = np.concatenate([prompt.ids, np.array(written, np.int32)])
    return replace(prompt, ids=ids, supervised=np.arange(len(ids)) >= len(prompt.ids), wishes=None)
