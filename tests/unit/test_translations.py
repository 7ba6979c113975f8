"""Every guide and the README exist in English and in Korean, with the same commands, code, options and tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGLISH = sorted(
    [
        ROOT / "README.md",
        ROOT / "docs/python.md",
        *(path for path in (ROOT / "docs/guides").glob("*.md") if not path.name.endswith(".ko.md")),
    ]
)
HANGUL = re.compile(r"[가-힣]")
# One Korean word for each thing: the second words for retention, gain, base, rehearsal, rejected, gradient, exit status, sampling.
OTHER_WORDS = re.compile(
    r"유지율|습득률|바탕 모델|기준 모델|원본 모델|(?<!데이터)베이스|되새김|거부된 답|기울기|종료 상태|표집|융합|십시오"
)
# The README's map of the rooms is for those who read the code: in English, and the Korean one leads there.
ENGLISH_ONLY = re.compile(r"^## (?:Map|구조)\n.*?(?=^## )", re.M | re.S)


def _text(path: Path) -> str:
    return ENGLISH_ONLY.sub("", path.read_text(encoding="utf-8"))


def _korean(path: Path) -> Path:
    return path.with_suffix(".ko.md")


def _code_blocks(text: str) -> list[list[str]]:
    """Fenced blocks line by line; what stands behind `#` is prose and may differ."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```$", text, re.M | re.S)
    return [[re.sub(r"\s*#.*", "", line).strip() for line in block.splitlines()] for block in blocks]


def _spans(text: str) -> set[str]:
    """Commands, options and names between backticks, outside of blocks."""
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)))


def _tables(text: str) -> list[list[str]]:
    """Each row's figures; the words of a cell may differ, its numbers not."""
    rows = [line.strip() for line in text.splitlines() if line.strip().startswith("|")]
    return [[" ".join(re.findall(r"\d[\d.,]*", cell)) for cell in row.strip("|").split("|")] for row in rows]


def _links(text: str) -> list[str]:
    """Targets of links, a guide named by its English file; the one that switches the language is left out."""
    found = re.findall(r"\]\(([^)]+)\)", text)
    return sorted(link.replace(".ko.md", ".md") for link in found)


@pytest.mark.parametrize("english", ENGLISH, ids=lambda path: path.name)
def test_the_korean_twin_says_the_same(english: Path) -> None:
    korean = _korean(english)
    assert korean.is_file(), f"{korean.name} is missing"
    one, other = _text(english), _text(korean)
    assert _code_blocks(other) == _code_blocks(one)
    assert _spans(other) == _spans(one)
    assert _tables(other) == _tables(one)


@pytest.mark.parametrize("english", ENGLISH, ids=lambda path: path.name)
def test_the_twins_link_to_each_other_and_to_the_same_pages(english: Path) -> None:
    korean = _korean(english)
    assert f"[한국어]({korean.name})" in _text(english)
    assert f"[English]({english.name})" in _text(korean)
    switch = english.name
    assert [link for link in _links(_text(korean)) if link != switch] == [
        link for link in _links(_text(english)) if link != switch
    ]


@pytest.mark.parametrize("korean", [_korean(path) for path in ENGLISH], ids=lambda path: path.name)
def test_a_korean_guide_leads_to_korean_guides(korean: Path) -> None:
    guides = re.findall(r"\]\(((?:docs/guides/)?[\w-]+\.md)\)", _text(korean))
    twins = [link for link in guides if (korean.parent / link).with_suffix(".ko.md").is_file()]
    assert twins == [korean.name.replace(".ko.md", ".md")]  # only the way to its English twin


@pytest.mark.parametrize("korean", [_korean(path) for path in ENGLISH], ids=lambda path: path.name)
def test_the_korean_is_korean(korean: Path) -> None:
    """One word for each thing, and one style throughout."""
    text = _text(korean)
    prose = re.sub(r"`[^`\n]*`|\]\([^)]*\)", "", re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S))
    assert len(HANGUL.findall(prose)) > len(re.findall(r"[A-Za-z]", prose))
    assert not OTHER_WORDS.findall(prose)
