"""Chapters and scenes, cut where a writer paused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.data.stories.scenes import LONGEST, SHORTEST, divided

SENTENCE = "골목 끝에서 바람이 불어왔고 아이는 모자를 눌러썼다. "


def prose(paragraphs: int, sentences: int = 3) -> str:
    return "\n".join(f"{number}번째 문단이다. " + SENTENCE * sentences for number in range(paragraphs))


def test_scenes_are_about_as_long_as_asked_for_and_hold_everything() -> None:
    text = prose(40)
    scenes = divided(text, 500).scenes
    assert "\n".join(scene.text for scene in scenes) == "\n".join(line.strip() for line in text.split("\n"))
    sizes = [len(scene.text.replace("\n", "")) for scene in scenes]
    assert all(SHORTEST * 500 <= size <= LONGEST * 500 + 150 for size in sizes)


@pytest.mark.parametrize(
    "heading",
    [
        "제1장",
        "제 2 장 여름",
        "3장. 돌아온 사람",
        "# 첫눈",
        "Chapter 4",
        "CHAPTER IX: The Door",
        "프롤로그",
        "제十장",
        "에필로그",
    ],
)
def test_headings_begin_chapters(heading: str) -> None:
    scenes = divided(f"{prose(3)}\n\n{heading}\n\n{prose(3)}", 2000).scenes
    assert [scene.number for scene in scenes] == [0, 0]
    assert scenes[1].chapter == heading.lstrip("# ")
    assert heading not in "".join(scene.text for scene in scenes)


def test_a_number_between_blank_lines_begins_a_chapter_and_one_at_a_paragraph_is_a_page() -> None:
    scenes = divided(f"{prose(3)}\n\n2\n\n{prose(3)}\n17\n{prose(1)}", 5000)
    assert [scene.chapter for scene in scenes.scenes] == ["", "2"]
    assert scenes.dropped == 1
    assert "17" not in scenes.scenes[1].text.split("\n")


def test_a_break_ends_a_scene_that_is_long_enough() -> None:
    long, short = prose(5), prose(1, 1)
    assert len(divided(f"{long}\n* * *\n{long}", 600).scenes) >= 2
    together = divided(f"{short}\n***\n{short}", 600).scenes
    assert len(together) == 1
    assert "***" not in together[0].text


def test_notices_and_running_headers_are_left_out() -> None:
    pages = "\n".join(f"{prose(2)}\n달빛 문고 제3권\n- {page} -" for page in range(1, 7))
    found = divided(f"저작권자의 허락 없이 무단 전재를 금합니다.\nhttps://example.com/books\n{pages}", 700)
    text = "\n".join(scene.text for scene in found.scenes)
    assert found.dropped == 2 + 12
    assert "문고" not in text
    assert "무단" not in text


def test_a_refrain_that_ends_as_a_sentence_stays() -> None:
    refrain = "그래도 봄은 온다."
    text = "\n".join(f"{prose(1)}\n{refrain}" for _ in range(6))
    assert sum(scene.text.count(refrain) for scene in divided(text, 400).scenes) == 6


def test_one_endless_paragraph_is_cut_at_sentences() -> None:
    scenes = divided(SENTENCE * 200, 400).scenes
    assert len(scenes) > 5
    assert all(scene.text.endswith(".") for scene in scenes)


@given(st.text(alphabet="가나다. \n*#1장\"'", max_size=600), st.integers(50, 300))
def test_no_text_is_written_twice_or_invented(text: str, chars: int) -> None:
    found = divided(text, chars)
    letters = "".join(char for scene in found.scenes for char in scene.text if char in "가나다")
    assert letters.count("가") <= text.count("가")
    assert all(scene.text.strip() for scene in found.scenes)
