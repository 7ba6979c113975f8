"""What is known of judged answers: in a step, in which their tokens have weights, and in a reading of held-out ones."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_loopai.models.micro_batch import MicroBatch


@dataclass(frozen=True)
class JudgedStep:
    """A step's micro-batches, in which the tokens of judged answers have their weights.

    correction: what to add to the weighted loss of `batches` to get the preference loss itself. pair_accuracy: share of
    the step's pairs whose chosen answer gained more log-probability over the base than the rejected one; margin: by how
    many nats on average. Both are None without pairs, or where the loss does not refer to the base.

    At a position the better candidates together are the chosen answer, of one token, and the others the rejected one.
    """

    batches: list[MicroBatch]
    correction: float = 0.0
    pair_accuracy: float | None = None
    margin: float | None = None


@dataclass(frozen=True)
class JudgedReading:
    """Held-out pairs under the model as it is, against the base.

    pair_accuracy: share of pairs whose chosen answer gained more log-probability than the rejected one. margin: by how
    many nats on average. Every labelled good answer counts as a pair with every bad one. Both are None where there is
    nothing to compare. chosen_logprob_change: nats per token by which chosen and good answers became likelier.
    positions: how many positions were read; they count as in `JudgedStep`.
    """

    pair_accuracy: float | None
    margin: float | None
    chosen_logprob_change: float | None
    positions: int = 0


@dataclass(frozen=True)
class PromptReading:
    """How the model answers held-out prompts.

    reward: mean over all answers, from 0 to 1; faultless: share of answers in which nothing that is checked is wrong.
    answer_tokens: mean length. divergence: KL(adapted || base) on these answers, nats a token, estimated by how much
    likelier they are to the model than to its base. prompts: how many there are.
    """

    reward: float
    faultless: float
    answer_tokens: float
    divergence: float
    prompts: int
