"""The output of `data audit`: the figures of an audit as lines for a person."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlx_loopai.language import tr

if TYPE_CHECKING:
    from mlx_loopai.data.audit import Audit, Finding
    from mlx_loopai.data.judged_audit import PreferenceAudit
    from mlx_loopai.data.records import BadRow


@dataclass
class NotRead:
    """The rows of the files that could not be read, and the names of fields that nothing reads."""

    bad: list[BadRow] = field(default_factory=list)
    unused: set[str] = field(default_factory=set)


def audit_text(found: Audit, seen: NotRead) -> str:
    """The lines of a report for a person, its warnings last."""
    from mlx_loopai.data.records import left_out

    share = tr("; padding wastes {share:.1%}", share=1 - found.real_token_share) if found.real_token_share else ""
    lines = [
        tr("rows           {rows}", rows=found.rows),
        *([tr("bad rows       {left_out}", left_out=left_out(seen.bad))] if seen.bad else []),
        tr("languages      {counts}", counts=counts_text(found.languages)),
        tr("JSON answers   {shown}", shown=_shown(found.json_shaped)),
        *(f"{rule:<15}{_shown(finding)}" for rule, finding in found.contamination.items()),
        tr("duplicates     {shown}", shown=_shown(found.duplicates)),
        tr("near ones      {shown}", shown=_shown(found.near_duplicates)),
        tr("leaked         {shown}", shown=_shown(found.leaked)),
        *([tr("control names  {shown}", shown=_shown(found.control_names))] if found.control_names.rows else []),
        *(f"{kind:<15}{_shown(finding)}" for kind, finding in found.personal.items()),
        tr(
            "lengths        up to {counts} {length_unit}; longest {longest}{share}",
            counts=counts_text(found.lengths),
            length_unit=tr(found.length_unit),
            longest=found.longest,
            share=share,
        ),
    ]
    told = found.preferences
    if told and told.asked:
        lines.append(tr("prompts        {shown}", shown=asked_text(told)))
    if told and told.judged:
        lines.append(
            tr(
                "judged         {pairs} pairs, {good} good and {bad} bad answers to {prompts} prompts",
                pairs=told.pairs,
                good=told.good,
                bad=told.bad,
                prompts=told.prompts,
            )
        )
    if told and told.best_probability is not None:
        lines.append(tr("positions      {shown}", shown=positions_text(told)))
    if told and told.chosen_purity is not None and told.rejected_purity is not None:
        lines.append(
            tr(
                "purity         chosen {chosen_purity:.3f}, rejected {rejected_purity:.3f}",
                chosen_purity=told.chosen_purity,
                rejected_purity=told.rejected_purity,
            )
        )
    if seen.unused:
        lines.append(tr("fields not used: {unused}", unused=", ".join(sorted(seen.unused))))
    return "\n".join([*lines, *(tr("warning: {warning}", warning=warning) for warning in found.warnings)])


def positions_text(found: PreferenceAudit) -> str:
    """How many positions there are, and how likely their best tokens were."""
    return tr(
        "{positions} in answers; the best tokens had {share:.1%} of the candidates' probability",
        positions=found.positions,
        share=found.best_probability,
    )


def asked_text(found: PreferenceAudit) -> str:
    """How many prompts have no answer, and how many of them say what is wished of it."""
    return tr("{asked} without an answer; {wished} say what is wished of it", asked=found.asked, wished=found.wished)


def _shown(finding: Finding) -> str:
    return (
        tr("{rows} rows, such as {example}", rows=finding.rows, example=finding.examples[0])
        if finding.rows
        else tr("none")
    )


def counts_text(counts: dict[Any, int]) -> str:
    """The counts by name in one line; `none` when there are none."""
    return ", ".join(f"{name}: {count}" for name, count in counts.items()) or tr("none")
