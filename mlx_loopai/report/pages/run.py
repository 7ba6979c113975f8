"""The page of one training run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from mlx_loopai.data.audit import Audit
from mlx_loopai.evaluation.gate import Gate
from mlx_loopai.language import Language
from mlx_loopai.report.kit import figures
from mlx_loopai.report.kit.elements import Child, Html, element, join
from mlx_loopai.report.kit.page import Section, facts, page, reproduction, said, settings_block
from mlx_loopai.report.pages.comparison import phase_legend
from mlx_loopai.report.sections.answers import answers_of
from mlx_loopai.report.sections.audited import audit_section
from mlx_loopai.report.sections.curves import (
    NATS,
    kept_figure,
    noisy_figure,
    phase_names,
    validation_figure,
    value_figure,
)
from mlx_loopai.report.sections.layers import Change, layers_section
from mlx_loopai.report.sections.probes import probes_section
from mlx_loopai.report.sections.tables import flat_settings
from mlx_loopai.report.sections.verdict import Headline, arm_card, banner, gate_rule, verdict_on
from mlx_loopai.runs.documents.comparison import BASE, Example
from mlx_loopai.runs.documents.evaluation import Evaluation
from mlx_loopai.runs.documents.run import RunRecord
from mlx_loopai.runs.documents.summary import Summary
from mlx_loopai.runs.documents.verdict import JudgedSummary

TUNED = "fine-tuned"
_STYLE = "c2"
_LOST_PER_TASK = 3
_Row = tuple[tuple[str, str], Child]


def run_page(
    run: RunRecord,
    norms: Mapping[str, float] | None = None,
    audit: Audit | None = None,
    language: Language = "en",
) -> str:
    """The report of a run as one self-contained HTML text.

    norms: adapted module -> norm of its update; audit: of the rows it was trained on. Raises: InputError when the
    floors in the run's settings cannot be read.
    """
    gate = run.gate
    arms = {} if run.evaluation is None else {TUNED: run.evaluation}
    styles = {BASE: "c0", TUNED: _STYLE}
    answers = answers_of({} if run.evaluation is None else _lost(run.evaluation), styles)
    samples = answers_of(_samples(run.judged), styles)
    settings = settings_block(said("All settings", "모든 설정"), run.settings)
    sections = [
        _verdict(run, gate),
        _summary(run),
        probes_section(arms, styles),
        Section("samples", "Before and after", "학습 전과 후", samples) if samples else None,
        Section("answers", "Answers it lost", "잃어버린 답", answers) if answers else None,
        _curves(run),
        layers_section([Change(TUNED, _STYLE, norms or {})]),
        audit_section(audit),
        Section("settings", "Settings", "설정", settings) if settings else None,
        reproduction(_command(run), run.versions),
    ]
    model, count = flat_settings(run.settings).get("model", ""), f"{len(run.steps):,}"
    about: list[Child] = [said(f"model {model}", f"모델 {model}")] if model else []
    about += [said(f"{count} steps", f"{count}스텝"), run.name]
    return page("Training run", "학습 보고서", join(about, " · "), sections, language)


def _verdict(run: RunRecord, gate: Gate) -> Section:
    top = banner(_headline(run, gate))
    if run.evaluation is None:
        told = said("To measure what it kept: ", "얼마나 남았는지 재려면: ")
        body: Child = [top, element("p", told, element("code", _advice(run)))]
    else:
        card = arm_card(verdict_on(TUNED, run.evaluation, gate), _STYLE, _learnt(run.judged))
        body = [top, element("div", card, class_="grid wide"), element("p", gate_rule(gate), class_="note")]
    return Section("verdict", "Verdict", "판정", body)


def _learnt(judged: JudgedSummary | None) -> Html | None:
    """What the run learnt, beside what it kept: a single run has no plain run that would make a share of it."""
    if judged is None or judged.gain is None:
        return None
    name = said("nats a token learnt on held-out rows", "학습하지 않은 행에서 배운 폭(토큰당 내트)")
    return element("div", element("b", figures.fixed(judged.gain)), element("small", name), class_="big")


def _advice(run: RunRecord) -> str:
    settings = flat_settings(run.settings)
    if settings.get("train.method") == "full":
        return shlex.join(["mlx-loopai", "evaluate", "--model", f"{run.name}/model"])
    model = settings.get("model", "nano")
    chosen = [] if model == "nano" else ["--model", model]
    return shlex.join(
        ["mlx-loopai", "evaluate", *chosen, "--adapter", f"{run.name}/adapter", "--out", f"{run.name}/evaluation.json"]
    )


def _samples(judged: JudgedSummary | None) -> dict[str, list[Example]]:
    """The samples of base and result by model, in the form that `answers_of` takes."""
    shown = () if judged is None else judged.samples
    return {
        BASE: [Example(prompt=one.prompt, answer=one.base, json_taught=one.json_taught) for one in shown],
        TUNED: [Example(prompt=one.prompt, answer=one.tuned, json_taught=one.json_taught) for one in shown],
    }


_JUDGED = {
    "pass": Headline("pass", "It learnt, and kept what it could do.", "새로 배웠고, 원래 하던 일도 그대로 합니다."),
    "fail": Headline("fail", "It is not ready to be used.", "아직 쓸 수 없습니다."),
    "unclear": Headline(
        "open",
        "It learnt; more questions must show what it kept.",
        "배웠습니다. 원래 능력을 지켰는지는 질문을 더 해 봐야 압니다.",
    ),
    "too little data": Headline("open", "Too little data to judge.", "데이터가 너무 적어 판단할 수 없습니다."),
}


def _headline(run: RunRecord, gate: Gate) -> Headline:
    if run.judged is not None:
        return _JUDGED[run.judged.verdict]
    if run.evaluation is not None:
        if gate.check(run.evaluation.gate_figures):
            return Headline("fail", "The fine-tuned model does not pass the gate.", "기준을 통과하지 못했습니다.")
        return Headline("pass", "The fine-tuned model passes the gate.", "기준을 통과했습니다.")
    if run.summary is None:
        return Headline("open", "The run has not ended.", "학습이 아직 끝나지 않았습니다.")
    english = "Training is done; what the model kept of its general ability has not been measured."
    return Headline("open", english, "학습은 끝났지만, 일반 능력이 얼마나 남았는지는 아직 재지 않았습니다.")


def _summary(run: RunRecord) -> Section:
    named: list[_Row] = [(("steps", "스텝 수"), _counted_steps(run))]
    if run.summary is not None:
        named += _trained_rows(run.summary)
    if run.resumed_from:
        named.append((("resumed from", "이어서 시작한 곳"), ", ".join(run.resumed_from)))
    if run.judged is not None:
        named += _judged_rows(run.judged)
    if run.evaluation is not None:
        named += _general_rows(run.evaluation)
    rows = [(said(*name), shown) for name, shown in named if shown]
    return Section("summary", "Summary", "요약", [facts(rows), None if run.summary is None else _memory(run.summary)])


def _judged_rows(judged: JudgedSummary) -> list[_Row]:
    rows: list[tuple[str, str, str]] = [
        (
            "gain on held-out rows (nats a token)",
            "학습하지 않은 행에서 얻은 이득(토큰당 내트)",
            figures.with_interval(judged.gain, judged.gain_interval),
        ),
        (
            "retention of the base, rounded to 8 bits",
            "원래 모델을 8비트로 반올림했을 때의 보존율",
            figures.fixed(judged.noise_floor),
        ),
        (
            "distance from the base (nats of KL a token)",
            "원래 모델과의 거리(토큰당 KL 내트)",
            figures.fixed(judged.budget_spent if judged.divergence is None else judged.divergence, 4),
        ),
        (
            "kind of general answers furthest from the base",
            "원래 모델에서 가장 멀어진 일반 답변의 종류",
            f"{judged.furthest_kind} {figures.fixed(judged.furthest_divergence, 4)}" if judged.furthest_kind else "",
        ),
        ("why it does not pass", "통과하지 못한 이유", "; ".join(judged.reasons)),
    ]
    return [((english, korean), shown) for english, korean, shown in rows]


def _trained_rows(summary: Summary) -> list[_Row]:
    return [
        (
            ("loss on the same fixed rows", "같은 데이터의 손실(학습 전과 후)"),
            _change(summary.loss_first, summary.loss_last),
        ),
        (
            ("loss on held-out rows", "검증 데이터의 손실"),
            _change(summary.validation_first, summary.validation_last),
        ),
        *_preference_rows(summary),
        *_prompt_rows(summary),
        (("supervised tokens", "학습 대상 토큰"), figures.count(summary.supervised_tokens)),
        (("supervised tokens a second", "초당 학습 대상 토큰"), figures.count(summary.tokens_per_s)),
        (("real tokens (not padding)", "패딩이 아닌 토큰"), figures.percent(summary.real_token_share)),
        (("supervised among them", "그중 학습 대상 토큰"), figures.percent(summary.supervised_token_share)),
        (("time", "걸린 시간"), figures.duration(summary.train_s)),
    ]


_WON_PAIRS = (
    ("held-out pairs that the chosen answer won", "검증용 쌍에서 선택된 답이 이긴 비율"),
    ("how much likelier chosen answers became (nats a token)", "선택된 답의 로그 확률 변화(토큰당 내트)"),
)
_WON_POSITIONS = (
    ("held-out positions at which the better tokens gained on the others", "검증용 위치에서 나은 토큰이 이긴 비율"),
    ("how much likelier the better tokens became (nats)", "나은 토큰의 로그 확률 변화(내트)"),
)


def _preference_rows(summary: Summary) -> list[_Row]:
    """Rows on preference training; none where no answers were judged."""
    won, likelier = _WON_POSITIONS if summary.positions else _WON_PAIRS
    shown: list[tuple[str, str, float | None, str]] = [
        (*won, summary.pair_accuracy, figures.percent(summary.pair_accuracy)),
        ("by how much (nats)", "이긴 차이(내트)", summary.margin, figures.fixed(summary.margin, 2)),
        (*likelier, summary.chosen_logprob_change, figures.fixed(summary.chosen_logprob_change)),
        (
            "length of held-out chosen answers (tokens)",
            "검증용 선택된 답의 길이(토큰)",
            summary.chosen_tokens,
            figures.fixed(summary.chosen_tokens, 0),
        ),
        (
            "length of held-out rejected answers (tokens)",
            "검증용 거절된 답의 길이(토큰)",
            summary.rejected_tokens,
            figures.fixed(summary.rejected_tokens, 0),
        ),
        (
            "length of what it writes to their prompts (tokens)",
            "같은 프롬프트에 쓰는 답의 길이(토큰)",
            None if summary.reward is not None else summary.answer_tokens,
            figures.fixed(summary.answer_tokens, 0),
        ),
        (
            "the same of the base",
            "원래 모델이 쓰는 답의 길이(토큰)",
            summary.base_answer_tokens,
            figures.fixed(summary.base_answer_tokens, 0),
        ),
    ]
    return [((english, korean), text) for english, korean, value, text in shown if value is not None]


def _prompt_rows(summary: Summary) -> list[_Row]:
    """Rows on training with prompts that the model answers itself; none where there were none."""
    rows: list[_Row] = []
    if summary.reward is not None and summary.reward_first is not None:
        rows.append(
            (
                ("reward of answers to held-out prompts (0 to 1)", "검증용 프롬프트에 쓴 답의 보상(0~1)"),
                f"{figures.fixed(summary.reward_first)} → {figures.fixed(summary.reward)}",
            )
        )
        rows.append(
            (
                ("answers without a fault", "흠이 없는 답의 비율"),
                f"{figures.percent(summary.faultless_first)} → {figures.percent(summary.faultless)}",
            )
        )
        rows.append(
            (
                ("their length (tokens)", "그 답의 길이(토큰)"),
                f"{figures.fixed(summary.answer_tokens_first, 0)} → {figures.fixed(summary.answer_tokens, 0)}",
            )
        )
        rows.append(
            (
                (
                    "distance from the base on these answers (nats of KL a token)",
                    "그 답에서 원래 모델과의 거리(토큰당 KL 내트)",
                ),
                figures.fixed(summary.answers_divergence),
            )
        )
    if summary.stopped_by:
        step = "–" if summary.result_step is None else f"{summary.result_step:,}"
        rows.append(
            (
                (
                    "stopped itself outside of its forgetting budget; the result is step",
                    "망각 예산을 벗어나 스스로 멈춤, 결과로 남긴 스텝",
                ),
                step,
            )
        )
    return rows


def _counted_steps(run: RunRecord) -> Html:
    done, skipped = f"{len(run.steps):,}", sum(step.skipped for step in run.steps)
    english, korean = done, done
    if run.total_steps and run.total_steps != len(run.steps):
        english, korean = f"{done} of {run.total_steps:,}", f"{run.total_steps:,} 가운데 {done}"
    if skipped:
        english, korean = f"{english}, {skipped} skipped", f"{korean}, {skipped}번 건너뜀"
    return said(english, korean)


def _general_rows(found: Evaluation) -> list[_Row]:
    """Rows with the evaluation's other figures, before and after."""
    pairs = [
        (("perplexity of general text", "일반 글의 혼란도"), found.base.perplexity, found.perplexity, 2),
        (("purity of Korean answers", "한국어 답의 한글 비율"), found.base.purity, found.purity, 3),
    ]
    return [
        (name, f"{figures.fixed(first, digits)} → {figures.fixed(last, digits)}")
        for name, first, last, digits in pairs
        if first is not None and last is not None
    ]


def _lost(found: Evaluation) -> dict[str, list[Example]]:
    """Some answers that the base had right and the run's model has wrong, by model."""
    lost = [answer for task in found.probes.values() for answer in task.lost[:_LOST_PER_TASK]]
    return {
        BASE: [Example(prompt=one.prompt, answer=one.base, right=True) for one in lost],
        TUNED: [Example(prompt=one.prompt, answer=one.tuned, right=False) for one in lost],
    }


def _command(run: RunRecord) -> str:
    """The command that repeats the training, where the settings are known."""
    if not run.settings:
        return ""
    settings = f"{run.name}/resolved.yaml"
    return shlex.join(["mlx-loopai", "train", settings, "--out", f"{run.name}-again"])


def _change(first: float | None, last: float | None) -> Html | None:
    if first is None or last is None:
        return None
    figure = f"{figures.fixed(first, 4)} → {figures.fixed(last, 4)}"
    return said(f"{figure} nats per token", f"토큰당 {figure} 내트")


def _memory(summary: Summary) -> Html | None:
    """Peak memory against the plan, as a bar with the plan as its mark; None where nothing was planned."""
    peak, plan = summary.peak_bytes, summary.plan_bytes
    if plan <= 0:
        return None
    whole = 1.1 * max(peak, plan)
    over = peak > plan
    fill = element("span", class_=f"fill {'over' if over else _STYLE}", style=f"width:{100 * peak / whole:.1f}%")
    mark = element("span", class_="at base", style=f"left:{100 * plan / whole:.1f}%")
    share = figures.ratio(peak, plan)
    words = said(
        f"peak {figures.size(peak)}, {share} of the planned {figures.size(plan)}"
        + (": more than planned" if over else ""),
        f"최대 {figures.size(peak)}, 계획({figures.size(plan)})의 {share}" + (", 계획보다 많음" if over else ""),
    )
    return element(
        "figure",
        element("figcaption", element("b", said("Memory against plan", "메모리와 계획"))),
        element("span", fill, mark, class_="track tall"),
        element("p", words, class_="note"),
        class_="memory",
    )


def _curves(run: RunRecord) -> Section | None:
    if not run.steps:
        return None
    draws = any(step.reward is not None for step in run.steps)
    pictures = [
        noisy_figure(run.steps, lambda step: step.reward, "c0", ("Reward of drawn answers", "뽑은 답의 보상"))
        if draws
        else None,
        value_figure(
            run.steps,
            lambda step: step.answer_tokens,
            "c6",
            ("Length of drawn answers (tokens)", "뽑은 답의 길이(토큰)"),
        ),
        noisy_figure(run.steps, lambda step: step.loss, _STYLE, ("Loss", "학습 손실"), NATS),
        validation_figure(run.validation, run.steps, "c1"),
        kept_figure(run.kept, run.steps, "c4"),
        value_figure(run.steps, lambda step: step.learning_rate, "c6", ("Learning rate", "학습률")),
        value_figure(run.steps, lambda step: step.penalty, "c3", ("Penalty", "벌점")),
        noisy_figure(run.steps, lambda step: step.gradient_norm, "c5", ("Gradient norm", "그래디언트 크기")),
    ]
    body: Child = [element("div", pictures, class_="grid even"), phase_legend(phase_names(run.steps))]
    return Section("curves", "Training", "학습 과정", body)
