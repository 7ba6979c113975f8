"""Rows made of stories: the request asks for just the scene that answers it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from mlx_loopai.data.sources import read_source
from mlx_loopai.data.stories.rows import StoryOptions, story_rows, titled
from mlx_loopai.errors import InputError


def story(path: Path, paragraphs: int = 24, heading: str = "") -> Path:
    lines = [
        f"{number}번째 날에 소년은 등대까지 걸어갔다가 {path.stem}에게 손을 흔들고 돌아왔다. 바다는 조용했다."
        for number in range(paragraphs)
    ]
    path.write_text("\n".join([heading, *lines] if heading else lines), encoding="utf-8")
    return path


def test_a_later_request_quotes_the_end_of_the_scene_before(tmp_path: Path) -> None:
    rows = story_rows([story(tmp_path / "등대.txt")], StoryOptions(scene_chars=300)).records
    assert len(rows) >= 4
    assert "등대" in rows[0].messages[0].content
    for before, row in pairwise(rows):
        quoted = row.messages[0].content.split("\n\n", 1)[1]
        assert before.messages[1].content.replace("\n", " ").endswith(quoted)
        assert quoted not in row.messages[1].content.replace("\n", " ")
    assert {row.category for row in rows} == {"creative"}
    assert rows[1].origin == "등대.txt: scene 2"


def test_the_same_scene_always_gets_the_same_request(tmp_path: Path) -> None:
    path = story(tmp_path / "등대.txt")
    first, second = (story_rows([path], StoryOptions(300)).records for _ in range(2))
    assert first == second


def test_genre_and_particles(tmp_path: Path) -> None:
    files = [story(tmp_path / f"이야기{number}.txt", 4) for number in range(9)]
    requests = [row.messages[0].content for row in story_rows(files, StoryOptions(400, "동화")).records]
    assert all("동화" in request for request in requests)
    assert not any("동화을" in request for request in requests)


def test_a_title_takes_its_own_particle(tmp_path: Path) -> None:
    files = [story(tmp_path / f"{number}번째 꽃.txt", 4) for number in range(9)]
    requests = [row.messages[0].content for row in story_rows(files, StoryOptions(400)).records]
    assert any("꽃'이라는 제목" in request for request in requests)
    assert not any("꽃'라는" in request for request in requests)


def test_an_english_story_is_asked_for_in_english(tmp_path: Path) -> None:
    path = tmp_path / "The Lighthouse.txt"
    path.write_text("\n".join(f"On day {n} the boy walked out to the sea and came back." for n in range(20)))
    rows = story_rows([path], StoryOptions(200)).records
    assert all(row.messages[0].content.isascii() for row in rows)
    assert "The Lighthouse" in rows[0].messages[0].content


def test_scenes_that_stand_there_twice_are_left_out(tmp_path: Path) -> None:
    first = story(tmp_path / "하나.txt")
    (tmp_path / "둘.txt").write_text(first.read_text(encoding="utf-8"), encoding="utf-8")
    found = story_rows([first, tmp_path / "둘.txt"], StoryOptions(300))
    assert found.duplicates == found.scenes // 2
    assert len(found.records) == found.scenes - found.duplicates


@pytest.mark.parametrize(
    ("name", "text", "title", "rest"),
    [
        ("김작가_봄밤.txt", "봄밤\n김 작가\n\n비가 왔다.", "봄밤", "\n비가 왔다."),
        ("봄밤.txt", "# 봄밤\n비가 왔다.", "봄밤", "비가 왔다."),
        ("봄밤.txt", "봄밤\n\n          강 경 애\n\n비가 왔다.", "봄밤", "비가 왔다."),
        ("봄밤.txt", "봄밤\n- 윤동주 -\n비가 왔다.", "봄밤", "비가 왔다."),
        ("봄밤.txt", "봄밤\n지은이: 현진건\n비가 왔다.", "봄밤", "비가 왔다."),
        ("봄밤.txt", "봄밤\n\n비가 왔다.\n김유정", "봄밤", "비가 왔다.\n김유정"),
        ("봄_밤.txt", "비가 왔다. 아이가 웃었다.", "봄 밤", "비가 왔다. 아이가 웃었다."),
    ],
)
def test_titles(name: str, text: str, title: str, rest: str) -> None:
    found, left = titled(Path(name), text)
    assert found == title
    assert left.strip() == rest.strip()


def test_a_folder_of_stories_is_a_source_as_it_is(tmp_path: Path) -> None:
    story(tmp_path / "등대.txt", 12)
    (tmp_path / "항구.md").write_text("# 항구\n배가 들어왔다. 갈매기가 울었다.", encoding="utf-8")
    records = read_source(str(tmp_path), "domain")
    assert {record.origin.partition(":")[0] for record in records} == {"등대.txt", "항구.md"}
    assert {record.category for record in records} == {"domain"}
    assert read_source(str(tmp_path / "등대.txt"), "domain")


def test_too_short_scenes_and_empty_stories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scene_chars"):
        story_rows([story(tmp_path / "등대.txt")], StoryOptions(10))
    (tmp_path / "빈.txt").write_text("***\n- 3 -\n", encoding="utf-8")
    with pytest.raises(InputError, match="no scene"):
        story_rows([tmp_path / "빈.txt"], StoryOptions())
