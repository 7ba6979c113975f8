from __future__ import annotations

import re
from typing import Any

import pytest

from mlx_loopai.data.audit import audit
from mlx_loopai.data.records import Message, Record
from mlx_loopai.evaluation.gate import Gate
from mlx_loopai.report.pages.comparison import arm_styles
from mlx_loopai.report.pages.comparison import comparison_page as page_html
from mlx_loopai.report.sections.tables import differing_settings, flat_settings
from mlx_loopai.report.sections.verdict import caveats, headline
from mlx_loopai.runs.documents.comparison import Comparison
from tests.unit.report.pages import Page, arm, coordinates, parse

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\u202e\x00'\"&amp;]]>-->"


def comparison_of(document: dict[str, Any]) -> Comparison:
    return Comparison.from_json(document, "demo.json")


def comparison_page(document: dict[str, Any]) -> str:
    return page_html(comparison_of(document), Gate())


def page_of(document: dict[str, Any]) -> Page:
    page = parse(comparison_page(document))
    coordinates(page)
    return page


def test_the_page_says_what_happened(document: dict[str, Any]) -> None:
    page = page_of(document)
    assert "guarded keeps what plain LoRA loses, and passes the gate." in page.text
    assert "일반 LoRA가 잃은 능력을 지키고" in page.text
    assert "Lost 80.0 %" in page.text
    assert "Kept 98.0 %" in page.text
    assert "60 right answers became wrong, 4 wrong ones right" in page.text
    assert "retention 0.2000 is below 0.95" in page.text
    assert "mlx-loopai demo --seed 0" in page.text
    assert "rank: 8" in page.text
    headings = [attributes["id"] for attributes in page.tags("section")]
    assert headings == ["verdict", "figures", "probes", "answers", "curves", "settings", "reproduce"]


def test_retention_is_judged_against_the_noise_floor(document: dict[str, Any]) -> None:
    for figures in document["arms"].values():
        figures |= {"noise_floor": 0.9, "noise_floor_min": 0.8}
    document["arms"]["guarded"] |= {"retention": 0.87, "retention_min": 0.75}
    page = page_of(document)
    assert "guarded keeps what plain LoRA loses, and passes the gate." in page.text
    assert "the base itself, rounded to 8 bits, keeps 0.900" in page.text
    assert "retention 0.2000 is below 0.95 of 0.900, which rounding the base leaves" in page.text
    assert "보존율 0.2000: 반올림한 원래 모델의 0.900에 0.95을 곱한 기준 미만" in page.text
    assert comparison_page(document).count('class="bad"') == 2


def test_below_chance_nobody_loses_more_than_all(document: dict[str, Any]) -> None:
    document["arms"]["plain"]["retention"] = -0.04
    assert "Lost 100.0 % of what the base could do (retention -0.040" in page_of(document).text


def test_every_sentence_is_there_in_both_languages(document: dict[str, Any]) -> None:
    page = page_of(document)
    spans = [attributes["class"] for _, attributes in page.elements if attributes.get("class") in ("en", "ko")]
    assert spans[::2] == ["en"] * (len(spans) // 2)
    assert spans[1::2] == ["ko"] * (len(spans) // 2)
    # What is left is data: names, figures, signs; two lower-case words in a row would be a sentence.
    assert [text for text in page.unspoken if re.search(r"[a-z]{2,} [a-z]{2,}", text.replace("a machine", ""))] == []


@pytest.mark.parametrize(("language", "title"), [("en", "What fine-tuning changed"), ("ko", "미세 조정이 바꾼 것")])
def test_one_language_is_chosen_at_first(document: dict[str, Any], language: Any, title: str) -> None:
    html = page_html(comparison_of(document), Gate(), language=language)
    assert f"<title>{title}</title>" in html
    assert [one["id"] for one in parse(html).tags("input") if "checked" in one] == [language]


def test_change_by_layer_and_data(document: dict[str, Any]) -> None:
    norms = {
        f"model.layers.{block}.{part}": 3.0 + block
        for block in range(3)
        for part in ("self_attn.q_proj", "mlp.up_proj")
    }
    rows = [
        Record((Message("user", "글?"), Message("assistant", answer)), "chat", "creative", f"a:{number}")
        for number, answer in enumerate(['{"text": ["비"]}', "바다가 있었다.", f"hello <b>{HOSTILE}</b>"])
    ]
    html = page_html(comparison_of(document), Gate(), {"plain": norms, "guarded": norms}, audit(rows))
    page = parse(html)
    coordinates(page)
    assert {"layers", "data"} <= {section["id"] for section in page.tags("section")}
    assert "1 of 3 rows are answered in JSON" in page.text
    assert "3행 가운데 1행의 답이 JSON입니다." in page.text
    # sqrt(2 (3^2 + 4^2 + 5^2)) = 10
    assert "plain: 10 in all; the largest is model.layers.2.self_attn.q_proj with 5." in page.text


def test_one_column_an_arm_and_the_missed_floors_marked(document: dict[str, Any]) -> None:
    html = comparison_page(document)
    head = html[html.index("<thead>") : html.index("</thead>")]
    assert head.count('scope="col"') == 3
    assert html.count('class="bad"') == 2
    assert "1.00x of plain" in html


def test_marks_and_faults_of_answers(document: dict[str, Any]) -> None:
    page = page_of(document)
    assert {"k-han", "fault", "faulty", "legend"} <= page.classes()
    assert "k-kana" not in {one for one in page.classes() if page.tags("mark")}
    assert "走了过去" in page.text
    assert {element.get("lang") for element in page.tags("div") if element.get("class") == "answer"} == {"ko"}


def test_json_that_was_taught_is_no_fault_and_elsewhere_it_is(document: dict[str, Any]) -> None:
    """The guarded arm of the demo had a red JSON tag under a green verdict: its rows are answered in JSON."""
    taught = {"prompt": "소설을 써 줘", "answer": '{"text": ["비가 왔다."]}', "json_taught": True}
    for one in document["arms"].values():
        one["examples"] = [taught]
    assert "fault" not in page_of(document).classes()
    document["arms"]["plain"]["examples"] = [taught, taught | {"prompt": "수도는?", "json_taught": False}]
    assert "fault" in page_of(document).classes()


def test_pictures(document: dict[str, Any]) -> None:
    page = page_of(document)
    # Retention against gain; loss, penalty and learning rate of two arms.
    assert len(page.tags("svg")) == 1 + 2 * 3
    assert sum("spot" in (circle["class"] or "") for circle in page.tags("circle")) == 3
    assert all(picture["aria-label"] for picture in page.tags("svg"))
    assert "Phases: 1 first · 2 second" in page.text


def test_hostile_text_everywhere_stays_text(document: dict[str, Any]) -> None:
    def poisoned(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {"arms", "base", "plain", "probes", "examples", "curve", "versions"}
            return {
                key if key in kept or not isinstance(inner, dict) else key + HOSTILE: poisoned(inner)
                for key, inner in value.items()
            }
        if isinstance(value, list):
            return [poisoned(inner) for inner in value]
        return value + HOSTILE if isinstance(value, str) else value

    html = comparison_page(poisoned(document))
    html.encode("utf-8")
    page = parse(html)
    assert "<script>alert(1)" in page.text
    assert "\u202e" not in html
    assert "\x00" not in html
    assert "⟦U+202E⟧" in page.text


def strip(value: Any) -> Any:
    """`value` with every figure and every interval null and every other list empty."""
    if isinstance(value, dict):
        return {key: None if key.endswith("_interval") else strip(inner) for key, inner in value.items()}
    if isinstance(value, str):
        return value
    return [] if isinstance(value, list) else None


def test_nulls_everywhere(document: dict[str, Any]) -> None:
    page = page_of(strip(document))
    assert "plain" in page.text
    assert "guarded does not pass the gate." in page.text
    assert "retention is missing" in page.text
    assert "None" not in page.text
    assert "nan" not in page.text.replace("nano", "")


@pytest.mark.parametrize("name", ["base", "plain", "guarded", "other"])
def test_one_arm_alone(name: str) -> None:
    page = page_of({"arms": {name: arm(0.97, 0.95, None if name == "base" else 0.9)}})
    expected = "Only the base was measured" if name == "base" else f"{name} passes the gate."
    assert expected in page.text
    assert "No command was recorded" in page.text


def test_a_document_of_almost_nothing() -> None:
    assert "fails" in page_of({"arms": {"x": {"retention": None, "retention_min": None}}}).text


def test_headline_of_several_and_of_failing_arms(document: dict[str, Any]) -> None:
    document["arms"]["replay"] = arm(0.97, 0.95, 0.9)
    document["arms"]["weak"] = arm(0.7, 0.3, 0.9)
    assert headline(comparison_of(document), Gate()).english == (
        "guarded and replay keep what plain LoRA loses, and pass the gate."
    )
    top = headline(comparison_of(document), Gate(floor=0.99))
    assert (top.tone, top.english) == ("fail", "guarded, replay and weak do not pass the gate.")


def test_a_comparison_that_proves_nothing_says_so(document: dict[str, Any]) -> None:
    assert caveats(comparison_of(document)) == []
    document["arms"]["plain"] |= {"retention": 0.95, "domain_score": -3.5}
    said = " ".join(english for english, _ in caveats(comparison_of(document)))
    assert "forgot too little" in said
    assert "did not learn the domain" in said
    assert headline(comparison_of(document), Gate()).english == "guarded passes the gate."


def test_colours_are_stable(document: dict[str, Any]) -> None:
    document["arms"] |= {f"more{number}": arm(0.9, 0.9, 0.9) for number in range(9)}
    styles = arm_styles(comparison_of(document).arms)
    assert (styles["base"], styles["plain"], styles["guarded"]) == ("c0", "c1", "c2")
    assert set(styles.values()) == {f"c{number}" for number in range(8)}


def test_only_settings_that_differ_are_in_the_table(document: dict[str, Any]) -> None:
    table = differing_settings(comparison_of(document).arms)
    assert table is not None
    assert "train.epochs" in table.markup
    assert "lora.rank" not in table.markup


@pytest.mark.parametrize("text", ["", "- a", "a: [", "\x00", "3"])
def test_settings_that_are_no_table(text: str) -> None:
    assert flat_settings(text) == {}


def test_settings_are_flattened() -> None:
    text = "a: {b: 1.0e-05, c: true}\nphases: [{name: x}, {name: y}]\nd: []\ne:\n"
    assert flat_settings(text) == {
        "a.b": "1e-05",
        "a.c": "true",
        "phases[0].name": "x",
        "phases[1].name": "y",
        "d": "[]",
        "e": "–",
    }
