"""The verdict on a run: whether its adapter may be used, and why not."""

from __future__ import annotations

from mlx_loopai.evaluation.gate import Gate, least
from mlx_loopai.language import tr
from mlx_loopai.runs.documents.summary import Summary
from mlx_loopai.runs.documents.verdict import JudgedSummary, Verdict

# A run of fewer steps has hardly left its warm-up, so that its figures are chance.
FEWEST_STEPS = 20
# A loss counts as real if a harmless change would cause it with a probability below this.
SIGNIFICANT = 0.05


def verdict_on(judged: JudgedSummary, gate: Gate) -> tuple[Verdict, list[str]]:
    """Whether a run may be used, and why not.

    Retention is judged against the noise floor: a model that changes no more than by rounding has kept everything. The
    worst kind of question is judged too; where its loss may be chance, the verdict is "unclear".
    """
    if judged.steps < FEWEST_STEPS:
        return "too little data", not_learnt(judged)
    reasons = [*not_learnt(judged), *_not_kept(judged, gate)]
    if reasons:
        return "fail", reasons
    doubts = _in_doubt(judged, gate)
    return ("unclear" if doubts else "pass"), doubts


def too_few(steps: int) -> str:
    """What a run of so few `steps` is told before and after; "" for one that is long enough."""
    if steps >= FEWEST_STEPS:
        return ""
    return tr("{steps} steps are too few to learn from; give more rows or train.epochs", steps=steps)


def not_learnt(judged: JudgedSummary) -> list[str]:
    """Why it is not clear that the run learnt anything; empty when it is."""
    if judged.steps < FEWEST_STEPS:
        return [too_few(judged.steps)]
    if judged.margin is not None:
        return _lost_preferences(judged)
    if judged.reward is not None and judged.reward_first is not None:
        return _lost_reward(judged.reward_first, judged.reward)
    if judged.gain_interval is not None and judged.gain_interval[0] <= 0:
        return [tr("nothing was clearly learnt: held-out rows are no likelier than before")]
    return []


def _not_kept(judged: JudgedSummary, gate: Gate) -> list[str]:
    if judged.retention is None:
        return [tr("general ability could not be measured: the base answers too few questions of the suite")]
    found = []
    if judged.retention < least(gate.floor, judged.noise_floor):
        found.append(
            tr(
                "general ability: {retention:.3f} is kept, below {floor:g} of what noise leaves",
                retention=judged.retention,
                floor=gate.floor,
            )
        )
    if _worst_is_low(judged, gate) and (judged.worst_chance or 0.0) < SIGNIFICANT:
        found.append(
            tr(
                "{kind}: {kept:.3f} is kept, below {floor:g} of what noise leaves",
                kind=judged.worst_kind,
                kept=judged.retention_min,
                floor=gate.minimum_floor,
            )
        )
    return found


def _in_doubt(judged: JudgedSummary, gate: Gate) -> list[str]:
    if not _worst_is_low(judged, gate):
        return []
    return [
        tr(
            "{kind}: {kept:.3f} is kept, but so few questions show that by chance too; ask more of them with evaluate",
            kind=judged.worst_kind,
            kept=judged.retention_min,
        )
    ]


def _worst_is_low(judged: JudgedSummary, gate: Gate) -> bool:
    kept = judged.retention_min
    return kept is not None and kept < least(gate.minimum_floor, judged.noise_floor_min)


def _lost_preferences(judged: Summary) -> list[str]:
    """Why a run on judged answers did not learn what it should."""
    if judged.positions:
        return _lost_positions(judged)
    found = []
    if judged.margin is not None and judged.margin <= 0:
        found.append(tr("nothing was learnt of the pairs: held-out chosen answers gained no more than rejected ones"))
    if judged.chosen_logprob_change is not None and judged.chosen_logprob_change < 0:
        found.append(
            tr(
                "held-out chosen answers became less likely ({chosen_logprob_change:.3f} nats per token); raise "
                "preference.sft_weight",
                chosen_logprob_change=judged.chosen_logprob_change,
            )
        )
    return found


def _lost_reward(before: float, after: float) -> list[str]:
    """Why a run on prompts did not learn what it should."""
    if after > before or before == 1:
        return []
    return [
        tr(
            "nothing was learnt of the prompts: the mean reward of held-out ones was {before:.3f} and is {after:.3f}",
            before=before,
            after=after,
        )
    ]


def _lost_positions(judged: Summary) -> list[str]:
    """Why a run on positions in answers did not learn what it should."""
    found = []
    if judged.margin is not None and judged.margin <= 0:
        found.append(tr("nothing was learnt of the positions: held-out better tokens gained no more than the others"))
    if judged.chosen_logprob_change is not None and judged.chosen_logprob_change < 0:
        found.append(
            tr(
                "the better tokens of held-out positions became less likely ({chosen_logprob_change:.3f} nats); lower "
                "train.learning_rate, or raise preference.kl_weight",
                chosen_logprob_change=judged.chosen_logprob_change,
            )
        )
    return found
