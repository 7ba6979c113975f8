"""The tables of a report: arms side by side, settings that differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from mlx_loopai.evaluation.gate import RETENTION, RETENTION_MIN, Gate
from mlx_loopai.report.kit import figures
from mlx_loopai.report.kit.elements import Child, Html, element
from mlx_loopai.report.kit.page import said, sideways
from mlx_loopai.runs.documents.comparison import BASE, PLAIN, ArmResult
from mlx_loopai.runs.documents.document import Interval


@dataclass(frozen=True)
class Row:
    """One figure for every arm. about: small print under its name; note: under a figure; bad: whether below a floor."""

    name: tuple[str, str]
    about: tuple[str, str]
    text: Callable[[ArmResult], str]
    note: Callable[[ArmResult], Child] = lambda arm: None
    bad: Callable[[ArmResult], bool] = lambda arm: False


def arms_table(arms: Mapping[str, ArmResult], styles: Mapping[str, str], gate: Gate) -> Html:
    """One column per arm, one row per figure; figures below a floor are marked."""
    head = [element("th", element("span", class_=f"dot {styles[name]}"), name, scope="col") for name in arms]
    rows = [_row(row, list(arms.values())) for row in _figures(gate, arms.get(BASE), arms.get(PLAIN))]
    table = element(
        "table",
        element("thead", element("tr", element("td", said("figure", "측정값")), head)),
        element("tbody", [row for row in rows if row is not None]),
    )
    return sideways(table, "Figures of every arm · 모든 모델의 측정값")


def _figures(gate: Gate, base: ArmResult | None, plain: ArmResult | None) -> list[Row]:
    return [
        Row(
            ("retention", "보존율"),
            ("of general ability, above guessing", "찍어서 맞힐 확률을 뺀 일반 능력"),
            text=lambda arm: figures.fixed(arm.retention),
            note=lambda arm: _between(arm.retention_interval),
            bad=lambda arm: arm is not base and _fails(arm, gate, RETENTION),
        ),
        Row(
            ("worst probe", "최저 항목"),
            ("retention of the weakest ability", "가장 약해진 능력의 보존율"),
            text=lambda arm: figures.fixed(arm.retention_min),
            note=lambda arm: arm.worst_task[0] if arm is not base and arm.worst_task else None,
            bad=lambda arm: arm is not base and _fails(arm, gate, RETENTION_MIN),
        ),
        Row(
            ("gain", "이득"),
            ("plain LoRA's improvement is 1", "일반 LoRA가 나아진 폭이 1"),
            text=lambda arm: figures.fixed(arm.gain),
            note=lambda arm: _between(arm.gain_interval),
        ),
        Row(
            ("domain score", "도메인 점수"),
            (
                "score of unseen domain text (higher is better); ppl: perplexity",
                "학습하지 않은 창작 글의 점수(높을수록 좋음); ppl: 혼란도",
            ),
            text=lambda arm: figures.fixed(arm.domain_score),
            note=lambda arm: (
                None if arm.domain_perplexity is None else f"ppl {figures.fixed(arm.domain_perplexity, 2)}"
            ),
        ),
        Row(
            ("right → wrong", "맞음 → 틀림"),
            ("answers lost", "잃은 답"),
            text=lambda arm: figures.count(arm.right_to_wrong),
        ),
        Row(
            ("wrong → right", "틀림 → 맞음"),
            ("answers won", "얻은 답"),
            text=lambda arm: figures.count(arm.wrong_to_right),
        ),
        Row(
            ("purity", "한글 비율"),
            ("Hangul among letters of Korean answers", "한국어 답의 글자 가운데 한글"),
            text=lambda arm: figures.fixed(arm.purity),
        ),
        *_costs(plain),
    ]


def _costs(plain: ArmResult | None) -> list[Row]:
    return [
        Row(("learning rate", "학습률"), ("peak", "최고"), text=lambda arm: figures.short(arm.learning_rate)),
        Row(
            ("steps", "스텝 수"),
            ("of the optimizer", "옵티마이저 기준"),
            text=lambda arm: figures.count(len(arm.curve) or None),
            note=_skipped,
        ),
        Row(
            ("training", "학습 시간"),
            ("with all preparation", "준비 포함"),
            text=lambda arm: figures.duration(arm.train_s),
        ),
        Row(
            ("step", "스텝 시간"),
            ("median, on the same fixed batch", "같은 배치에서의 중앙값"),
            text=lambda arm: figures.duration(arm.step_s),
            note=lambda arm: _against(arm, plain, "step_s"),
        ),
        Row(
            ("peak memory", "최대 메모리"),
            ("of that step", "그 스텝에서"),
            text=lambda arm: figures.size(arm.peak_bytes),
            note=lambda arm: _against(arm, plain, "peak_bytes"),
        ),
    ]


def _row(row: Row, arms: Sequence[ArmResult]) -> Html | None:
    texts = [row.text(arm) for arm in arms]
    if all(text == figures.UNKNOWN for text in texts):
        return None
    name = element("th", said(*row.name), element("small", said(*row.about)), scope="row")
    return element("tr", name, [_cell(row, arm, text) for arm, text in zip(arms, texts, strict=True)])


def _cell(row: Row, arm: ArmResult, text: str) -> Html:
    bad, note = row.bad(arm), row.note(arm)
    return element(
        "td",
        f"✗ {text}" if bad else text,
        None if note is None else element("small", note),
        class_="bad" if bad else None,
    )


def _between(bounds: Interval) -> Html | None:
    text = figures.interval(bounds)
    return said(text, text.replace(" to ", "~")) if text else None


def _fails(arm: ArmResult, gate: Gate, name: str) -> bool:
    """Whether the figure was measured and is why the gate says no."""
    return any(one.name == name and one.value is not None for one in gate.check(arm.gate_figures))


def _skipped(arm: ArmResult) -> Html | None:
    skipped = sum(step.skipped for step in arm.curve)
    return said(f"{skipped} skipped", f"{skipped}번 건너뜀") if skipped else None


def _against(arm: ArmResult, plain: ArmResult | None, figure: str) -> Html | None:
    if plain is None or arm is plain:
        return None
    share = figures.ratio(getattr(arm, figure), getattr(plain, figure))
    return said(f"{share} of plain", f"plain의 {share}") if share else None


def differing_settings(arms: Mapping[str, ArmResult]) -> Html | None:
    """A table of the settings in which the arms differ; None when there are not two arms with settings."""
    trained = {name: arm.settings for name, arm in arms.items() if arm.settings.strip()}
    tables = [flat_settings(settings) for settings in trained.values()]
    names = list(dict.fromkeys(name for table in tables for name in table))
    rows = [(name, [table.get(name, figures.UNKNOWN) for table in tables]) for name in names]
    rows = [(name, values) for name, values in rows if len(set(values)) > 1]
    if len(trained) < 2 or not rows:
        return None
    head = element("tr", element("td"), [element("th", name, scope="col") for name in trained])
    body = [
        element("tr", element("th", name, scope="row"), [element("td", value) for value in values])
        for name, values in rows
    ]
    table = element("table", element("thead", head), element("tbody", body), class_="settings")
    return sideways(table, "Settings that differ · 서로 다른 설정")


def flat_settings(settings: str) -> dict[str, str]:
    """Dotted name -> value of a YAML text; empty when it is not a table."""
    try:
        loaded = yaml.safe_load(settings)
    except (yaml.YAMLError, ValueError):
        return {}
    return _flat(loaded, "") if isinstance(loaded, dict) else {}


def _flat(table: Mapping[Any, Any], prefix: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for number, item in enumerate(value):
                found |= _flat(item, f"{prefix}{key}[{number}].")
        else:
            found[f"{prefix}{key}"] = _scalar(value)
    return found


def _scalar(value: Any) -> str:
    if value is None:
        return figures.UNKNOWN
    if isinstance(value, bool):
        return "true" if value else "false"
    return figures.short(value) if isinstance(value, float) else str(value)
