"""Turns stories into training rows: every scene becomes the answer to a request for that scene."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import regex

from mlx_loopai.data.duplicates import near_groups
from mlx_loopai.data.records import Message, Record
from mlx_loopai.data.samples.slots import Slot
from mlx_loopai.data.sentences import sentence_units
from mlx_loopai.data.stories.reading import read_story
from mlx_loopai.data.stories.scenes import Scene, divided
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.progress import Advance, ignore

# Characters that a request quotes from the end of the scene before.
_QUOTED = 160
_LONGEST_TITLE = 40
# A Korean name alone below the title: "김유정", "강 경 애", "- 윤동주 -", "현진건 지음", "지은이: 이 상".
_BYLINE = regex.compile(
    r"[-–—\s]*(?:(?:지은이|글쓴이|작가|저자|글)\s*[:：]?\s*)?(?:\p{Hangul}\s*){2,4}(?:지음|작|씀|글)?[-–—\s]*"
)
_BEGINNINGS = {
    "ko": (
        "{quoted:이라는/라는} 제목의 {genre:을/를} 시작하는 첫 장면을 써 주세요.",
        "{genre} '{title}'의 도입부를 {length}자 안팎으로 써 주세요.",
        "제목이 '{title}'인 {genre:을/를} 써 보세요. 첫 장면이면 됩니다.",
    ),
    "en": (
        "Write the opening scene of a {genre} called '{title}'.",
        "Begin a {genre} titled '{title}', in about {length} characters.",
    ),
}
_CHAPTERS = {
    "ko": ("{genre} '{title}'의 '{chapter}' 장을 여는 장면을 써 주세요.",),
    "en": ("Write the scene that opens the chapter '{chapter}' of the {genre} '{title}'.",),
}
_NEXT = {
    "ko": (
        "다음에 이어질 장면을 써 주세요.\n\n{before}",
        "{genre} '{title}'의 한 대목입니다. 이어서 {length}자 안팎으로 써 주세요.\n\n{before}",
        "아래 글 뒤에 올 이야기를 이어 주세요.\n\n{before}",
    ),
    "en": (
        "Write the scene that comes next.\n\n{before}",
        "Continue the {genre} '{title}' in about {length} characters.\n\n{before}",
    ),
}
_GENRES = {"ko": "소설", "en": "story"}
_LENGTHS = 100


@dataclass(frozen=True)
class StoryOptions:
    """How stories become rows. scene_chars: length of a scene, roughly (글자 수); genre: as requests name it."""

    scene_chars: int = 700
    genre: str = ""


@dataclass(frozen=True)
class StoryRows:
    """The rows made of stories. dropped_lines: notices, page numbers, headers; duplicates: scenes left out as repeats.

    encodings: encoding -> number of files that were read with it.
    """

    records: tuple[Record, ...]
    files: int
    scenes: int
    duplicates: int
    dropped_lines: int
    encodings: dict[str, int]


def story_rows(files: Sequence[Path], options: StoryOptions, on_progress: Advance = ignore) -> StoryRows:
    """The rows of story files, in their order; the same scene always gets the same request.

    Raises: InputError for a file that cannot be read, or when nothing is left to learn from.
    """
    if options.scene_chars < 50:
        raise InputError(
            tr("`scene_chars` {scene_chars}: too short for a scene; give 50 or more", scene_chars=options.scene_chars)
        )
    records: list[Record] = []
    encodings: dict[str, int] = {}
    dropped = 0
    for done, path in enumerate(files, 1):
        story = read_story(path)
        encodings[story.encoding] = encodings.get(story.encoding, 0) + 1
        title, text = titled(path, story.text)
        found = divided(text, options.scene_chars)
        dropped += found.dropped
        records += _records(path, title, found.scenes, options.genre)
        on_progress(done)
    again = {place for group in near_groups([record.messages[1].content for record in records]) for place in group[1:]}
    kept = tuple(record for place, record in enumerate(records) if place not in again)
    if not kept:
        raise InputError(tr("the stories hold no scene; give texts with paragraphs"))
    return StoryRows(
        kept, files=len(files), scenes=len(records), duplicates=len(again), dropped_lines=dropped, encodings=encodings
    )


def titled(path: Path, text: str) -> tuple[str, str]:
    """(title, the text after it): the first line where it is the file's name or a heading, else the file's name.

    A byline below the title, part of the file's name or a name alone, goes with it.
    """
    name = regex.sub(r"[\s_]+", " ", path.stem).strip()
    lines = text.split("\n")
    written = [place for place, line in enumerate(lines) if line.strip()]
    first = lines[written[0]].strip()
    heading = first.lstrip("# ").strip()
    is_title = len(heading) <= _LONGEST_TITLE and (first.startswith("#") or _plain(heading) in _plain(name))
    if not is_title:
        return name, text
    rest = written[1] if len(written) > 1 else len(lines)
    if rest < len(lines) and _is_byline(lines[rest].strip(), name):
        rest += 1
    return heading, "\n".join(lines[rest:])


def _is_byline(line: str, name: str) -> bool:
    return len(line) <= _LONGEST_TITLE and (_plain(line) in _plain(name) or _BYLINE.fullmatch(line) is not None)


def korean_share(text: str) -> float:
    """Share of Hangul among all letters."""
    letters = regex.findall(r"\p{L}", text)
    return sum("가" <= letter <= "힣" for letter in letters) / max(1, len(letters))


def _plain(text: str) -> str:
    return regex.sub(r"[\W_]+", "", text).casefold()


def _records(path: Path, title: str, scenes: Sequence[Scene], genre: str) -> list[Record]:
    records = []
    before = ""
    for number, scene in enumerate(scenes):
        language = "ko" if korean_share(scene.text) >= 0.5 else "en"
        if number == 0:
            wordings = _BEGINNINGS[language]
        else:
            wordings = (_CHAPTERS if scene.number == 0 and scene.chapter else _NEXT)[language]
        request = _chosen(wordings, f"{path.name}:{number}").format(
            title=title,
            quoted=Slot(f"'{title}'"),
            genre=Slot(genre or _GENRES[language]),
            chapter=scene.chapter,
            length=max(1, round(len(scene.text) / _LENGTHS)) * _LENGTHS,
            before=before,
        )
        messages = (Message("user", request), Message("assistant", scene.text))
        records.append(Record(messages, kind="chat", category="creative", origin=f"{path.name}: scene {number + 1}"))
        before = _ending(scene.text)
    return records


def _chosen(wordings: Sequence[str], key: str) -> str:
    return wordings[int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % len(wordings)]


def _ending(text: str) -> str:
    """The last sentences of a scene that fit into a request; at least the last one."""
    units = [unit.strip() for unit in sentence_units(text) if unit.strip()]
    found = units[-1]
    for unit in reversed(units[:-1]):
        if len(found) + len(unit) > _QUOTED:
            break
        found = f"{unit} {found}"
    return found
