"""The answers of all models to the same prompts, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from mlx_loopai.report.kit import figures
from mlx_loopai.report.kit.elements import Html, element
from mlx_loopai.report.kit.marks import KINDS, is_korean, language, marked
from mlx_loopai.report.kit.page import model_name, said
from mlx_loopai.runs.documents.comparison import Example
from mlx_loopai.text.measures import purity

_FAULTS = {"JSON": "JSON 모양", "loop": "되풀이", "empty": "빈 답"}


def answers_of(examples: Mapping[str, Sequence[Example]], styles: Mapping[str, str]) -> list[Html]:
    """One block per prompt with one card per arm, and the legend of the marks that occur; empty without examples.

    examples: by the arm that answered.
    """
    prompts = list(dict.fromkeys(example.prompt for answered in examples.values() for example in answered))
    kinds: Counter[str] = Counter()
    blocks = [_prompt_block(prompt, examples, styles, kinds) for prompt in prompts]
    return [_legend(kinds), *blocks] if blocks else []


def _prompt_block(
    prompt: str, examples: Mapping[str, Sequence[Example]], styles: Mapping[str, str], kinds: Counter[str]
) -> Html:
    cards = [
        _card(name, example, styles[name], kinds)
        for name, answered in examples.items()
        for example in answered
        if example.prompt == prompt
    ]
    return element(
        "div",
        element("h3", element("bdi", prompt, lang=language(prompt)), class_="prompt"),
        element("div", cards, class_="answers"),
        class_="exchange",
    )


def _card(arm: str, example: Example, style: str, kinds: Counter[str]) -> Html:
    korean = is_korean(example.prompt)
    # A right answer to a question of the suite has the form that was asked for.
    shown = marked(example.answer, korean, json=example.json_taught or bool(example.right))
    kinds.update(shown.kinds)
    kinds.update({f"fault-{fault}": 1 for fault in shown.faults})
    chips = [element("span", said(fault, _FAULTS[fault]), class_="chip fault") for fault in shown.faults]
    if example.right is not None:
        word = said("✓ right", "✓ 맞음") if example.right else said("✗ wrong", "✗ 틀림")
        chips.insert(0, element("span", word, class_=f"chip {_tone(example.right)}"))
    pure = figures.fixed(purity(example.answer), 2) if korean and example.answer else None
    share = element("small", said(f"purity {pure}", f"한글 비율 {pure}")) if pure else None
    text = element("div", shown.html, class_="answer", lang=language(example.answer), dir="ltr", tabindex="0")
    title = element("h4", element("span", class_=f"dot {style}"), model_name(arm), " ", chips, share)
    faulty = " faulty" if shown.faults else ""
    return element("article", title, text, class_=f"card {style}{faulty}")


def _legend(kinds: Mapping[str, int]) -> Html:
    entries = [
        element("li", element("mark", said(english, korean), class_=f"k-{kind}"))
        for kind, (english, korean) in KINDS.items()
        if kinds.get(kind)
    ]
    entries += [
        element("li", element("span", said(fault, korean), class_="chip fault"), said(" the whole answer", " 답 전체"))
        for fault, korean in _FAULTS.items()
        if kinds.get(f"fault-{fault}")
    ]
    if not entries:
        english = "No foreign script, markup or broken shape in these answers."
        return element("p", said(english, "이 답들에는 다른 문자나 깨진 형태가 없습니다."), class_="clean")
    return element("ul", entries, class_="legend", aria_label="Legend · 범례")


def _tone(right: bool) -> str:
    return "pass" if right else "fail"
