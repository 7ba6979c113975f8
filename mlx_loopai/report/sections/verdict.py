"""The verdict on a comparison or an evaluation in words, in English and Korean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlx_loopai.evaluation.gate import Gate, Shortfall
from mlx_loopai.report.kit import figures
from mlx_loopai.report.kit.elements import Html, element
from mlx_loopai.report.kit.page import model_name, said
from mlx_loopai.runs.documents.comparison import BASE, PLAIN, Comparison
from mlx_loopai.runs.documents.figures import Kept

# From this retention on plain LoRA has not forgotten, so that there was nothing for a guard to keep
# (docs/measuring.md).
FORGETS_BELOW = 0.93
_KOREAN_NAMES = {"retention": "보존율", "retention_min": "최저 항목 보존율", "gain": "이득"}


@dataclass(frozen=True)
class Verdict:
    """The gate's verdict on the arm `name`. shortfalls: why it fails; empty if it passes."""

    name: str
    arm: Kept
    shortfalls: tuple[Shortfall, ...]

    @property
    def passes(self) -> bool:
        return not self.shortfalls


@dataclass(frozen=True)
class Headline:
    """The sentence at the top. tone: pass, fail, or open (nothing could be judged)."""

    tone: str
    english: str
    korean: str


def verdicts(arms: Mapping[str, Kept], gate: Gate) -> list[Verdict]:
    """The gate's verdict on every trained arm."""
    return [verdict_on(name, arm, gate) for name, arm in arms.items() if name != BASE]


def verdict_on(name: str, arm: Kept, gate: Gate) -> Verdict:
    """The gate's verdict on one arm."""
    return Verdict(name, arm, tuple(gate.check(arm.gate_figures)))


def headline(comparison: Comparison, gate: Gate) -> Headline:
    """The one-sentence result of a comparison: of its guarded arms, or of whatever arms it has."""
    judged = verdicts(comparison.arms, gate)
    guarded = [verdict for verdict in judged if verdict.name != PLAIN] or judged
    if not guarded:
        return Headline(
            "open",
            "Only the base was measured: there is nothing to judge.",
            "원래 모델만 측정해서 판정할 것이 없습니다.",
        )
    passing = [verdict for verdict in guarded if verdict.passes]
    names = _listed([verdict.name for verdict in passing or guarded])
    plural = len(passing or guarded) > 1
    if not passing:
        verb = "do not pass" if plural else "does not pass"
        return Headline("fail", f"{names} {verb} the gate.", f"{names}: 기준을 통과하지 못했습니다.")
    plain = comparison.arms.get(PLAIN)
    if plain and plain.retention is not None and plain.retention <= FORGETS_BELOW and passing[0].arm is not plain:
        verb = "keep" if plural else "keeps"
        english = f"{names} {verb} what plain LoRA loses, and {'pass' if plural else 'passes'} the gate."
        return Headline("pass", english, f"{names}: 일반 LoRA가 잃은 능력을 지키고 기준을 통과했습니다.")
    return Headline("pass", f"{names} {'pass' if plural else 'passes'} the gate.", f"{names}: 기준을 통과했습니다.")


def banner(top: Headline) -> Html:
    """The headline, large."""
    return element("div", element("p", said(top.english, top.korean), class_="headline"), class_=f"banner {top.tone}")


def gate_rule(gate: Gate) -> Html:
    """The floors in words."""
    english = (
        f"The gate asks for retention of at least {gate.floor:g} and at least {gate.minimum_floor:g} on the worst probe"
    )
    korean = f"통과 기준: 보존율 {gate.floor:g} 이상, 최저 항목 {gate.minimum_floor:g} 이상"
    english += ", both as shares of what rounding the base leaves, where that was measured"
    korean += " (원래 모델을 반올림했을 때의 값을 쟀다면 그 값에 대한 비율)"
    if gate.gain_floor > 0:
        english += f", and a gain of at least {gate.gain_floor:g}"
        korean += f", 이득 {gate.gain_floor:g} 이상"
    return said(f"{english}.", f"{korean}.")


def caveats(comparison: Comparison) -> list[tuple[str, str]]:
    """Why the comparison may not count, each in English and Korean."""
    plain = comparison.arms.get(PLAIN)
    found = []
    if plain and plain.retention is not None and plain.retention > FORGETS_BELOW:
        found.append(
            (
                f"Plain LoRA kept {figures.percent(plain.retention)} of its general ability, more than"
                f" {FORGETS_BELOW:g}: it forgot too little for this comparison to prove anything.",
                "일반 LoRA도 거의 잊지 않아, 이 비교로는 아무것도 증명할 수 없습니다.",
            )
        )
    base = comparison.arms.get(BASE)
    scores = [arm.domain_score if arm else None for arm in (base, plain)]
    if scores[0] is not None and scores[1] is not None and scores[1] <= scores[0]:
        found.append(
            (
                "Plain LoRA did not learn the domain, so gains cannot be compared with its own.",
                "일반 LoRA가 도메인을 배우지 못해 이득을 비교할 수 없습니다.",
            )
        )
    return found


def arm_card(verdict: Verdict, style: str, learnt: Html | None = None) -> Html:
    """One arm's verdict: its figures in large type, with their meaning below. learnt: one more figure of that size."""
    arm = verdict.arm
    word = said("✓ passes", "✓ 통과") if verdict.passes else said("✗ fails", "✗ 미달")
    chip = element("span", word, class_=f"chip {_tone(verdict.passes)}")
    return element(
        "article",
        element("h3", element("span", class_=f"dot {style}"), model_name(verdict.name), " ", chip),
        element(
            "div",
            _big("retention", "보존율", figures.percent(arm.retention), arm.retention, style),
            _big("worst probe", "최저 항목", figures.percent(arm.retention_min), arm.retention_min, style),
            None if arm.gain is None else _big("gain", "이득", figures.percent(arm.gain), arm.gain, style),
            learnt,
            class_="bigs",
        ),
        [element("p", sentence) for sentence in sentences(verdict.name, arm)],
        _reasons(verdict.shortfalls),
        class_=f"card {style}",
    )


def _reasons(shortfalls: Sequence[Shortfall]) -> Html | None:
    if not shortfalls:
        return None
    return element("ul", [element("li", said(str(one), _in_korean(one))) for one in shortfalls], class_="reasons")


def _in_korean(shortfall: Shortfall) -> str:
    name = _KOREAN_NAMES[shortfall.name]
    if shortfall.value is None:
        return f"{name}: 값이 없습니다"
    if shortfall.noise_floor is None:
        return f"{name} {shortfall.shown}: 기준 {shortfall.floor:g} 미만"
    noise = f"반올림한 원래 모델의 {shortfall.noise_floor:.3f}"
    return f"{name} {shortfall.shown}: {noise}에 {shortfall.floor:g}을 곱한 기준 미만"


def sentences(name: str, arm: Kept) -> list[Html]:
    """What the arm `name` lost, kept and learnt."""
    return [sentence for sentence in (_kept(arm), _churn(arm), _learnt(name, arm)) if sentence is not None]


def _kept(arm: Kept) -> Html | None:
    if arm.retention is None:
        return None
    lost = arm.retention <= FORGETS_BELOW
    # Below chance the computed loss exceeds 100 %, which as a share would make no sense.
    share = figures.percent(min(1 - arm.retention, 1.0) if lost else arm.retention)
    english = (
        f"{'Lost' if lost else 'Kept'} {share} of what the base could do (retention {figures.fixed(arm.retention)}"
    )
    korean = f"원래 모델이 하던 일의 {share}를 {'잃었습니다' if lost else '지켰습니다'}"
    korean += f" (보존율 {figures.fixed(arm.retention)}"
    if bounds := figures.interval(arm.retention_interval):
        english += f", 95 % interval {bounds}"
        korean += f", 95 % 구간 {bounds.replace(' to ', '~')}"
    english, korean = f"{english})", f"{korean})"
    if arm.worst_task:
        task, worst = arm.worst_task
        scores = f"{task}: {figures.fixed(worst.base)} → {figures.fixed(worst.score)}"
        english += f"; worst on {scores}"
        korean += f"; 가장 낮은 항목 {scores}"
    if arm.noise_floor is not None:
        english += f"; the base itself, rounded to 8 bits, keeps {figures.fixed(arm.noise_floor)}"
        korean += f"; 8비트로 반올림한 원래 모델의 보존율 {figures.fixed(arm.noise_floor)}"
    return said(f"{english}.", f"{korean}.")


def _churn(arm: Kept) -> Html | None:
    if arm.right_to_wrong is None:
        return None
    lost, won = figures.count(arm.right_to_wrong), figures.count(arm.wrong_to_right)
    return said(
        f"{lost} right answers became wrong, {won} wrong ones right.",
        f"맞던 답 {lost}개가 틀리게, 틀리던 답 {won}개가 맞게 되었습니다.",
    )


def _learnt(name: str, arm: Kept) -> Html | None:
    if arm.gain is None:
        return None
    if name == PLAIN:
        return said(
            "The gain of the others is measured against the gain of this one, which is 1.",
            "다른 모델의 이득은 이 모델이 나아진 폭을 1로 놓고 잽니다.",
        )
    share, bounds = figures.percent(arm.gain), figures.interval(arm.gain_interval)
    english = f"Learnt {share} of what plain LoRA learnt of the domain"
    korean = f"일반 LoRA가 도메인에서 나아진 폭의 {share}만큼 나아졌습니다"
    if bounds:
        english += f" (95 % interval {bounds})"
        korean += f" (95 % 구간 {bounds.replace(' to ', '~')})"
    return said(f"{english}.", f"{korean}.")


def _big(name: str, korean: str, text: str, value: float | None, style: str) -> Html:
    width = 0.0 if value is None else 100 * min(max(value, 0.0), 1.0)
    bar = element("span", element("span", style=f"width:{width:.1f}%", class_=f"fill {style}"), class_="meter")
    return element("div", element("b", text), bar, element("small", said(name, korean)), class_="big")


def _tone(passes: bool) -> str:
    return "pass" if passes else "fail"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
