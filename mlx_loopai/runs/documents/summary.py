"""The summary of a training run: the `done` event of its events.jsonl, and the JSON that `train` prints."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ConfigDict

from mlx_loopai.runs.documents.document import Document


@dataclass(frozen=True, kw_only=True)
class Summary(Document):
    """The summary of a training run.

    loss_first, loss_last: nats per token on the same fixed rows before and after; None where no row has an answer.
    real_token_share: tokens of rows over
    tokens computed; mlx_lm_token_share: the same with mlx-lm's batching. divergence: KL from the base at the end, in
    nats per token, on general answers that were not rehearsed; furthest_kind: the kind of them that moved furthest;
    furthest_divergence: its KL; budget_spent: what counts against the budget, the KL or a share of the furthest kind's
    where that is more. These four are None or "" where nothing was read. model: the folder of the whole model, where
    the weights themselves were trained. update_scale: share of the trained update in the result; below 1 where the
    whole update would exceed the budget. pair_accuracy: share of held-out pairs whose chosen answer gained more
    log-probability over the base than the rejected one; margin: by how many nats on average; chosen_logprob_change:
    nats per token by which held-out chosen answers became likelier. positions: how many held-out positions these three
    were read at, where the better tokens are the chosen answer and the others the rejected one; 0 for whole answers.
    chosen_tokens, rejected_tokens: mean lengths of the
    held-out answers; answer_tokens, base_answer_tokens: of what the model and its base write to their prompts. All of
    these are None without judged rows.

    Of a run that learns from its own answers to prompts: reward_first, reward: the mean reward of answers to held-out
    prompts before and after, from 0 to 1; faultless_first, faultless: the share of these answers in which nothing that
    is checked is wrong; answer_tokens_first, answer_tokens: their mean length; answers_divergence: KL from the base on
    the last ones, nats a token. stopped_by: `budget` where the run left its forgetting budget and stopped itself.
    result_step: the step whose checkpoint is the result; None: the last. best_step: step of the best validation; the
    adapter is that step's when `train.keep_best` is set.

    Unknown keys are ignored, since other versions may have written more.
    """

    __pydantic_config__ = ConfigDict(extra="ignore")

    run: str
    steps: int
    loss_first: float | None
    loss_last: float | None
    validation_first: float | None
    validation_last: float | None
    supervised_tokens: int
    tokens_per_s: float
    real_token_share: float
    supervised_token_share: float
    peak_bytes: int
    plan_bytes: int
    resumed_from: str | None
    skipped_steps: int
    train_s: float
    mlx_lm_token_share: float | None = None
    best_step: int | None = None
    validation_best: float | None = None
    budget_spent: float | None = None
    divergence: float | None = None
    furthest_kind: str = ""
    furthest_divergence: float | None = None
    model: str | None = None
    update_scale: float = 1.0
    pair_accuracy: float | None = None
    margin: float | None = None
    chosen_logprob_change: float | None = None
    positions: int = 0
    chosen_tokens: float | None = None
    rejected_tokens: float | None = None
    answer_tokens: float | None = None
    base_answer_tokens: float | None = None
    reward_first: float | None = None
    reward: float | None = None
    faultless_first: float | None = None
    faultless: float | None = None
    answer_tokens_first: float | None = None
    answers_divergence: float | None = None
    stopped_by: str = ""
    result_step: int | None = None
