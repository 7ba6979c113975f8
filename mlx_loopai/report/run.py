"""The page of one training run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from mlx_loopai.evaluation.gate import Gate, number
from mlx_loopai.report import figures
from mlx_loopai.report.answers import answers_of
from mlx_loopai.report.comparison import phase_legend
from mlx_loopai.report.curves import kept_figure, noisy_figure, phase_names, value_figure
from mlx_loopai.report.documents import BASE, TUNED, Run
from mlx_loopai.report.elements import Child, Html, element
from mlx_loopai.report.page import Section, page, reproduction, settings_block, subtitle
from mlx_loopai.report.probes import probes_section
from mlx_loopai.report.tables import flat_settings
from mlx_loopai.report.verdict import Headline, Verdict, arm_card, gate_rule

_STYLE = "c2"


def run_page(run: Run) -> str:
    """The report of a run (of `documents.run_of`) as one self-contained HTML text."""
    gate = gate_of(run)
    arms = () if run.evaluation is None else (run.evaluation,)
    styles = {BASE: "c0", TUNED: _STYLE}
    answers = answers_of(run.lost, styles)
    settings = settings_block("All settings", run.settings)
    sections = [
        _verdict(run, gate),
        _summary(run),
        probes_section(arms, styles),
        Section("answers", "Answers it lost", "잃어버린 답", answers) if answers else None,
        _curves(run),
        Section("settings", "Settings", "설정", settings) if settings else None,
        reproduction(run.command, run.versions),
    ]
    model = flat_settings(run.settings).get("model", "")
    about = [f"model {model}" if model else "", f"{len(run.steps):,} steps", run.name]
    return page("Training run", "학습 보고서", " · ".join(part for part in about if part), sections)


def gate_of(run: Run) -> Gate:
    """The floors that the run's own settings ask for, the gate's defaults elsewhere."""
    flat, default = flat_settings(run.settings), Gate()
    floor, gain_floor = (_float(flat.get(f"forgetting.{name}")) for name in ("floor", "gain_floor"))
    return Gate(
        floor=default.floor if floor is None else floor,
        minimum_floor=default.minimum_floor,
        gain_floor=default.gain_floor if gain_floor is None else gain_floor,
    )


def _verdict(run: Run, gate: Gate) -> Section:
    top = _headline(run, gate)
    banner = element(
        "div",
        element("p", top.english, class_="headline"),
        element("p", top.korean, lang="ko"),
        class_=f"banner {top.tone}",
    )
    if run.evaluation is None:
        body: Child = [banner, element("p", "To measure what it kept: ", element("code", _advice(run)))]
    else:
        verdict = Verdict(run.evaluation, tuple(gate.check(run.evaluation.figures)))
        body = [
            banner,
            element("div", arm_card(verdict, _STYLE), class_="grid wide"),
            element("p", gate_rule(gate), class_="note"),
        ]
    return Section("verdict", "Verdict", "결론", body)


def _advice(run: Run) -> str:
    model = flat_settings(run.settings).get("model", "nano")
    chosen = [] if model == "nano" else ["--model", model]
    return shlex.join(
        ["mlx-loopai", "evaluate", *chosen, "--adapter", f"{run.name}/adapter", "--out", f"{run.name}/evaluation.json"]
    )


def _headline(run: Run, gate: Gate) -> Headline:
    if run.evaluation is not None:
        if gate.check(run.evaluation.figures):
            return Headline("fail", "The fine-tuned model does not pass the gate.", "기준을 통과하지 못했습니다.")
        return Headline("pass", "The fine-tuned model passes the gate.", "기준을 통과했습니다.")
    if run.summary is None:
        return Headline("open", "The run has not ended.", "학습이 아직 끝나지 않았습니다.")
    english = "Training is done; what the model kept of its general ability has not been measured."
    return Headline("open", english, "학습은 끝났지만, 잃은 능력이 있는지는 아직 측정하지 않았습니다.")


def _summary(run: Run) -> Section:
    summary = run.summary or {}
    rows = {name: text for name, text in _summary_rows(run, summary).items() if text and text != figures.UNKNOWN}
    listed = element("dl", [[element("dt", name), element("dd", text)] for name, text in rows.items()], class_="facts")
    return Section("summary", "Summary", "요약", [listed, _memory(summary)])


def _summary_rows(run: Run, summary: Mapping[str, Any]) -> dict[str, str]:
    def value(name: str) -> float | None:
        return number(summary.get(name))

    total = f" of {run.total_steps:,}" if run.total_steps and run.total_steps != len(run.steps) else ""
    skipped = sum(step.skipped for step in run.steps)
    return {
        "steps": f"{len(run.steps):,}{total}{f', {skipped} skipped' if skipped else ''}",
        "loss on the same fixed rows": _change(value("loss_first"), value("loss_last")),
        "loss on held-out rows": _change(value("validation_first"), value("validation_last")),
        "supervised tokens": figures.count(value("supervised_tokens")),
        "speed": f"{figures.count(value('tokens_per_s'))} supervised tokens/s" if value("tokens_per_s") else "",
        "real tokens (not padding)": figures.percent(value("real_token_share")),
        "supervised among them": figures.percent(value("supervised_token_share")),
        "time": figures.duration(value("train_s")),
        "resumed from": ", ".join(run.resumed_from),
        **_general_rows(run),
    }


def _general_rows(run: Run) -> dict[str, str]:
    """What the evaluation found besides the probes, before and after."""
    after = {} if run.evaluation is None else run.evaluation.figures
    before = after.get("base")
    if not isinstance(before, Mapping):
        return {}
    names = {"perplexity": ("perplexity of general text", 2), "purity": ("purity of Korean answers", 3)}
    rows = {}
    for name, (shown, digits) in names.items():
        first, last = number(before.get(name)), number(after.get(name))
        if first is not None and last is not None:
            rows[shown] = f"{figures.fixed(first, digits)} → {figures.fixed(last, digits)}"
    return rows


def _change(first: float | None, last: float | None) -> str:
    return (
        "" if first is None or last is None else f"{figures.fixed(first, 4)} → {figures.fixed(last, 4)} nats per token"
    )


def _memory(summary: Mapping[str, Any]) -> Html | None:
    """Peak memory against the plan, as a bar with the plan as its mark."""
    peak, plan = number(summary.get("peak_bytes")), number(summary.get("plan_bytes"))
    if not peak or not plan or peak < 0 or plan < 0:
        return None
    whole = 1.1 * max(peak, plan)
    over = peak > plan
    fill = element("span", class_=f"fill {'over' if over else _STYLE}", style=f"width:{100 * peak / whole:.1f}%")
    mark = element("span", class_="at base", style=f"left:{100 * plan / whole:.1f}%")
    words = f"peak {figures.size(peak)}, {figures.ratio(peak, plan)} of the planned {figures.size(plan)}"
    return element(
        "figure",
        element("figcaption", element("b", "Memory against plan"), " ", subtitle("계획 대비 메모리")),
        element("span", fill, mark, class_="track tall"),
        element("p", words, ": more than planned" if over else "", class_="note"),
        class_="memory",
    )


def _curves(run: Run) -> Section | None:
    if not run.steps:
        return None
    pictures = [
        noisy_figure(run.steps, lambda step: step.loss, _STYLE, "Loss", "학습 손실", "nats per token"),
        value_figure(run.steps, lambda step: step.learning_rate, "c6", "Learning rate", "학습률"),
        value_figure(run.steps, lambda step: step.penalty, "c3", "Penalty", "벌점"),
        noisy_figure(run.steps, lambda step: step.gradient_norm, "c5", "Gradient norm", "기울기 크기"),
        kept_figure(run.kept, run.steps, "c4"),
    ]
    body: Child = [element("div", pictures, class_="grid even"), phase_legend(phase_names(run.steps))]
    return Section("curves", "Training", "학습 과정", body)


def _float(text: str | None) -> float | None:
    try:
        return None if text is None else number(float(text))
    except ValueError:
        return None
