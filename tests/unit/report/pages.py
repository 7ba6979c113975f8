"""Parts of documents to report on, and a reader that checks a page as a browser would have to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

VOID = {"br", "hr", "input", "link", "meta"}


@dataclass
class Page(HTMLParser):
    """A parsed page: its texts, its elements, and what is wrong with its structure."""

    texts: list[str] = field(default_factory=list)
    unspoken: list[str] = field(default_factory=list)  # texts in no language: data, names, figures
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)
    _spoken: int = 0  # elements that are open from the first one that is written in a language on

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if len({name for name, _ in attrs}) != len(attrs):
            self.problems.append(f"<{tag}> repeats an attribute")
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
            classes = (dict(attrs).get("class") or "").split()
            if self._spoken or {"en", "ko", "answer"} & set(classes):
                self._spoken += 1

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.problems.append(f"</{tag}> closes something else")
        self._spoken = max(0, self._spoken - 1)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if not self._spoken and not {"pre", "code", "style", "title", "bdi", "label"} & set(self._open):
            self.unspoken.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]

    def classes(self) -> set[str]:
        return {one for _, attributes in self.elements for one in (attributes.get("class") or "").split()}


def parse(html: str) -> Page:
    """The page, which must be well formed, self-contained and free of scripts."""
    page = Page()
    page.feed(html)
    page.close()
    assert page.problems == []
    assert page._open == []
    assert {"script", "img", "iframe", "object"} & {tag for tag, _ in page.elements} == set()
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), tag
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"] for link in page.tags("a")} <= {f"#{one}" for one in ids}
    return page


def coordinates(page: Page) -> list[float]:
    """Every number that a picture of the page draws with."""
    names = ("x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "width", "height")
    found = []
    for tag, attributes in page.elements:
        if tag in ("line", "rect", "circle", "text"):
            found += [float(attributes[name] or "nan") for name in names if name in attributes]
        if tag == "path":
            found += [float(part) for part in (attributes["d"] or "").replace("M", " ").replace("L", " ").split()]
    assert all(math.isfinite(value) for value in found)
    return found


def steps(count: int, phases: tuple[str, ...] = ("train",)) -> list[dict[str, Any]]:
    return [
        {
            "event": "step",
            "step": number + 1,
            "phase": phases[number * len(phases) // count],
            "loss": 4.0 - number / count,
            "penalty": 0.01 * number,
            "learning_rate": 1e-3,
            "gradient_norm": 1.0,
            "supervised_tokens": 100,
            "skipped": False,
        }
        for number in range(count)
    ]


def probe(base: float, score: float, lost: int = 0, won: int = 0) -> dict[str, Any]:
    return {"base": base, "score": score, "n": 200, "chance": 0.05, "right_to_wrong": lost, "wrong_to_right": won}


def kept(retention: float | None, worst: float | None, gain: float | None) -> dict[str, Any]:
    """What an evaluation holds at least."""
    score = 0.95 if retention is None else 0.95 * retention
    return {
        "retention": retention,
        "retention_min": worst,
        "retention_interval": None if retention is None else [retention - 0.02, retention + 0.01],
        "gain": gain,
        "gain_interval": None if gain is None else [gain - 0.03, gain + 0.02],
        "right_to_wrong": 60,
        "wrong_to_right": 4,
        "probes": {"facts_ko": probe(0.95, score, 40, 3), "code": probe(0.9, score, 20, 1)},
        "purity": 0.97,
    }


def arm(
    retention: float | None, worst: float | None, gain: float | None, answer: str = "방콕입니다."
) -> dict[str, Any]:
    return kept(retention, worst, gain) | {
        "domain_score": -3.4 if gain is None else -3.4 + gain,
        "train_s": 61.2,
        "step_s": 0.25,
        "peak_bytes": 400 << 20,
        "learning_rate": 2e-3,
        "examples": [{"prompt": "태국의 수도는?", "answer": answer, "right": retention is None or retention > 0.5}],
        "curve": steps(40, ("first", "second")),
        "settings": f"lora: {{rank: 8}}\ntrain: {{seed: 0, epochs: {3 if worst == 0.0 else 1}}}\n",
    }
