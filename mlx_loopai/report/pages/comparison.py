"""The page of a comparison: base, plain LoRA and guarded arms side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mlx_loopai.data.audit import Audit
from mlx_loopai.evaluation.gate import Gate, least
from mlx_loopai.language import Language
from mlx_loopai.report.kit.elements import Child, Html, element, join
from mlx_loopai.report.kit.page import Section, page, reproduction, said, settings_block
from mlx_loopai.report.kit.svg import Spot, scatter
from mlx_loopai.report.sections.answers import answers_of
from mlx_loopai.report.sections.audited import audit_section
from mlx_loopai.report.sections.curves import NATS, noisy_figure, phase_names, value_figure
from mlx_loopai.report.sections.layers import Change, layers_section
from mlx_loopai.report.sections.probes import probes_section
from mlx_loopai.report.sections.tables import arms_table, differing_settings
from mlx_loopai.report.sections.verdict import arm_card, banner, caveats, gate_rule, headline, verdicts
from mlx_loopai.runs.documents.comparison import BASE, PLAIN, ArmResult, Comparison
from mlx_loopai.runs.documents.events import Step

_FIRST_FREE_COLOUR, _COLOURS = 2, 8
AXES = ("retention: kept of the base →", "보존율: 남은 능력 →"), ("gain ↑", "이득 ↑")
_TABLE_NOTE = said(
    "Retention compares each model's answers with the base's, above guessing, and is at most 1 a kind of question."
    " Gain is the improvement on held-out domain text, where plain LoRA's is 1; the domain score is minus the nats per"
    " token there. Ranges are 95 % bootstrap intervals.",
    "보존율은 찍어서 맞힐 확률을 뺀 뒤 원래 모델의 능력이 남은 비율이고, 질문 종류마다 1까지만 셉니다."
    " 이득은 학습하지 않은 도메인 글에서 일반 LoRA가 나아진 폭을 1로 볼 때 나아진 정도이고,"
    " 도메인 점수는 그 글에서 잰 값입니다(토큰당 내트에 음의 부호를 붙인 값, 높을수록 좋음)."
    " 범위는 95 % 부트스트랩 구간입니다.",
)


def comparison_page(
    comparison: Comparison,
    gate: Gate,
    changes: Mapping[str, Mapping[str, float]] | None = None,
    audit: Audit | None = None,
    language: Language = "en",
) -> str:
    """The report of a comparison as one self-contained HTML text.

    changes: arm -> adapted module -> norm of its update; audit: of the rows that the arms were trained on.
    """
    styles = arm_styles(comparison.arms)
    sections = [
        _verdict(comparison, styles, gate),
        _figures(comparison, styles, gate),
        probes_section(comparison.arms, styles),
        _answers(comparison, styles),
        _curves(comparison, styles),
        layers_section([Change(name, styles[name], norms) for name, norms in (changes or {}).items()]),
        audit_section(audit),
        _settings(comparison),
        reproduction(comparison.command, comparison.versions, comparison.machine),
    ]
    return page("What fine-tuning changed", "미세 조정이 바꾼 것", _about(comparison), sections, language)


def arm_styles(arms: Iterable[str]) -> dict[str, str]:
    """Name of an arm -> colour class: base and plain always have the same, the others take turns."""
    found = {BASE: "c0", PLAIN: "c1"}
    others = [name for name in arms if name not in found]
    free = _COLOURS - _FIRST_FREE_COLOUR
    return found | {name: f"c{_FIRST_FREE_COLOUR + index % free}" for index, name in enumerate(others)}


def _about(comparison: Comparison) -> Html:
    count, first = len(comparison.arms), next(iter(comparison.arms))
    parts: list[Child] = [
        said(f"model {comparison.model}", f"모델 {comparison.model}") if comparison.model else "",
        said(f"{count} arms", f"비교 대상 {count}개") if count > 1 else said(f"arm {first}", f"대상 {first}"),
        "" if comparison.seed is None else said(f"seed {comparison.seed}", f"시드 {comparison.seed}"),
        comparison.machine,
    ]
    return join([part for part in parts if part], " · ")


def _verdict(comparison: Comparison, styles: Mapping[str, str], gate: Gate) -> Section:
    cards = [arm_card(verdict, styles[verdict.name]) for verdict in verdicts(comparison.arms, gate)]
    body: Child = [
        banner(headline(comparison, gate)),
        [element("p", said(*caveat), class_="caveat") for caveat in caveats(comparison)],
        element("div", cards, class_="grid wide"),
        element("p", gate_rule(gate), class_="note"),
    ]
    return Section("verdict", "Verdict", "판정", body)


def _figures(comparison: Comparison, styles: Mapping[str, str], gate: Gate) -> Section:
    table = arms_table(comparison.arms, styles, gate)
    picture = _retention_against_gain(comparison.arms, styles, gate)
    both = element("div", table, picture, class_="split") if picture else table
    body: Child = [both, element("p", _TABLE_NOTE, class_="note")]
    return Section("figures", "Side by side", "나란히 보기", body)


def retention_spots(arms: Mapping[str, ArmResult], styles: Mapping[str, str]) -> list[Spot]:
    """Every trained arm by retention and gain, and the base; empty when no arm has both figures."""
    spots = [
        Spot(
            name,
            x=arm.retention,
            y=arm.gain,
            x_interval=arm.retention_interval,
            y_interval=arm.gain_interval,
            style=styles[name],
        )
        for name, arm in arms.items()
        if name != BASE and arm.retention is not None and arm.gain is not None
    ]
    # By definition, the base keeps everything and learns nothing.
    base = Spot(BASE, x=1.0, y=0.0, x_interval=None, y_interval=None, style=styles[BASE], hollow=True)
    return [*spots, base] if spots else []


def _retention_against_gain(arms: Mapping[str, ArmResult], styles: Mapping[str, str], gate: Gate) -> Html | None:
    spots = retention_spots(arms, styles)
    if not spots:
        return None
    floor = next(iter(arms.values())).noise_floor
    label = "; ".join(f"{spot.name}: retention · 보존율 {spot.x:.3f}, gain · 이득 {spot.y:.3f}" for spot in spots)
    note = said(
        "Up and to the right is better; the shaded part passes the floor on retention.",
        "오른쪽 위일수록 좋으며, 색칠한 곳이 보존율 기준을 넘는 자리입니다.",
    )
    return element(
        "figure",
        element("figcaption", element("b", said("Kept against learnt", "지킨 것과 배운 것"))),
        scatter(spots, label, *AXES, least(gate.floor, floor)),
        element("p", note, class_="note"),
        class_="scatter",
    )


def _answers(comparison: Comparison, styles: Mapping[str, str]) -> Section | None:
    blocks = answers_of({name: arm.examples for name, arm in comparison.arms.items()}, styles)
    return Section("answers", "Before and after", "전과 후의 답", blocks) if blocks else None


def _curves(comparison: Comparison, styles: Mapping[str, str]) -> Section | None:
    trained = {name: arm.curve for name, arm in comparison.arms.items() if arm.curve}
    if not trained:
        return None
    losses = [step.loss for curve in trained.values() for step in curve if step.loss is not None]
    shown = (min(losses), max(losses)) if losses else ()
    blocks = [arm_curves(name, curve, styles[name], shown) for name, curve in trained.items()]
    note = said(
        "The losses share one scale. Arms see different rows, so compare shapes, not heights.",
        "손실은 같은 눈금으로 그렸습니다. 모델마다 학습한 데이터가 다르므로 높이가 아니라 모양을 비교하세요.",
    )
    return Section(
        "curves", "Training", "학습 과정", [blocks, element("p", note, class_="note") if len(trained) > 1 else None]
    )


def arm_curves(name: str, steps: Sequence[Step], style: str, loss_range: tuple[float, ...]) -> Html:
    """The curves of the arm `name`: loss, penalty where there is one, learning rate."""
    pictures = [
        noisy_figure(
            steps, lambda step: step.loss, style, (f"Loss of {name}", f"{name}의 학습 손실"), NATS, loss_range
        ),
        value_figure(steps, lambda step: step.penalty, style, (f"Penalty of {name}", f"{name}의 벌점")),
        value_figure(steps, lambda step: step.learning_rate, style, (f"Learning rate of {name}", f"{name}의 학습률")),
    ]
    return element("div", element("div", pictures, class_="grid even"), phase_legend(phase_names(steps)))


def phase_legend(names: Sequence[str]) -> Html | None:
    """The numbers above the bands with their phases' names."""
    if not names:
        return None
    listed = " · ".join(f"{number} {name}" for number, name in enumerate(names, 1))
    return element("p", said(f"Phases: {listed}", f"단계: {listed}"), class_="note")


def _settings(comparison: Comparison) -> Section | None:
    blocks = [
        settings_block(said(f"All settings of {name}", f"{name}의 모든 설정"), arm.settings)
        for name, arm in comparison.arms.items()
    ]
    blocks = [block for block in blocks if block is not None]
    if not blocks:
        return None
    differing = differing_settings(comparison.arms)
    title = element("p", said("Where the arms differ:", "서로 다른 설정:")) if differing else None
    return Section("settings", "Settings", "설정", [title, differing, blocks])
