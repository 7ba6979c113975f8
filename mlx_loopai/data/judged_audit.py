"""What is in pairs and labelled answers: how many, and what tells the better from the worse besides being better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_loopai.data.conversation import Record
from mlx_loopai.data.pairs import Judged, Label, Pair
from mlx_loopai.language import tr
from mlx_loopai.text.measures import purity

# Beyond this share of pairs, length alone tells which answer is the chosen one.
_LENGTH_TELLS = 0.75


@dataclass(frozen=True)
class PreferenceAudit:
    """pairs, good, bad: how many. chosen_longer: share of pairs whose chosen answer has more characters.

    chosen_purity, rejected_purity: mean share of Korean letters in better and worse answers; None without any.
    prompts: distinct prompts.
    """

    pairs: int
    good: int
    bad: int
    prompts: int
    chosen_longer: float | None
    chosen_purity: float | None
    rejected_purity: float | None

    @property
    def warnings(self) -> list[str]:
        """What to mend before training, one line each with the next action."""
        found = []
        if self.chosen_longer is not None and not 1 - _LENGTH_TELLS <= self.chosen_longer <= _LENGTH_TELLS:
            found.append(
                tr(
                    "the chosen answer is the longer one in {chosen_longer:.0%} of the pairs: length is learnt "
                    "first; add pairs of the other kind, or use the variant norm of dpo",
                    chosen_longer=self.chosen_longer,
                )
            )
        if bool(self.good) != bool(self.bad):
            found.append(
                tr(
                    "all labels are {label}: there is nothing to tell them apart from; add answers of the other kind",
                    label=tr("good") if self.good else tr("bad"),
                )
            )
        return found


def audit_judged(judged: Sequence[Judged]) -> PreferenceAudit:
    """Look at every pair and labelled answer once."""
    pairs = [one for one in judged if isinstance(one, Pair)]
    labels = [one for one in judged if isinstance(one, Label)]
    better = [said(pair.chosen, len(pair.prompt)) for pair in pairs]
    worse = [said(pair.rejected, len(pair.prompt)) for pair in pairs]
    longer = sum(len(one) > len(other) for one, other in zip(better, worse, strict=True))
    better += [said(one.answer, len(one.answer.messages) - 1) for one in labels if one.good]
    worse += [said(one.answer, len(one.answer.messages) - 1) for one in labels if not one.good]
    return PreferenceAudit(
        pairs=len(pairs),
        good=sum(one.good for one in labels),
        bad=sum(not one.good for one in labels),
        prompts=len({*(pair.prompt for pair in pairs), *(one.answer.messages[:-1] for one in labels)}),
        chosen_longer=longer / len(pairs) if pairs else None,
        chosen_purity=_mean(better),
        rejected_purity=_mean(worse),
    )


def said(record: Record, start: int) -> str:
    """What a conversation says from message `start` on."""
    return "\n".join(message.content for message in record.messages[start:] if message.role == "assistant")


def _mean(answers: Sequence[str]) -> float | None:
    return sum(map(purity, answers)) / len(answers) if answers else None
