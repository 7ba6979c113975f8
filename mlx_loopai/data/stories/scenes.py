"""Divides a story into chapters and scenes of similar length, at the breaks that its writer made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import regex

from mlx_loopai.data.sentences import sentence_units

# A scene may be this much shorter or longer than asked for; a paragraph is divided only beyond that.
SHORTEST, LONGEST = 0.4, 1.3
_CHAPTER = regex.compile(
    r"(?:#{1,6}\s+(?P<name>.+)"
    r"|(?P<name>제?\s*[0-9一二三四五六七八九十]+\s*[장화회부편막](?:[\s.:,—–-].{0,40})?)"
    r"|(?P<name>(?:chapter|part|book)\s+[\divxlc]+(?:[\s.:,—–-].{0,60})?)"
    r"|(?P<name>(?:프롤로그|에필로그|서장|종장|prologue|epilogue)(?:[\s.:,—–-].{0,40})?)"
    r"|(?P<name>(?:[IVX]{1,5}|\d{1,3})\.?))",
    regex.I,
)
_BREAK = regex.compile(r"[\s*＊※◇◆□■○●☆★·~∼=_—–-]{3,}|[*＊※◇◆□■○●☆★§#]{1,5}")
_PAGE_NUMBER = regex.compile(r"[-–—\[(\s]*\d{1,4}[-–—\])\s]*(?:쪽|페이지|page)?", regex.I)
_NOTICE = regex.compile(
    r"copyright|©|ⓒ|저작권|무단\s*(?:전재|복제|배포)|all rights reserved|isbn|https?://|www\.|project gutenberg"
    r"|텍스트본|지은이\s*:|펴낸\s*(?:곳|이)|발행(?:일|처)\s*[:：]",
    regex.I,
)
_LONGEST_NOTICE = 200
# A line of at most this length that is repeated this often is a running header or footer.
_REPEATED, _LONGEST_HEADER = 4, 60


@dataclass(frozen=True)
class Scene:
    """`chapter`: its heading or nothing; `number`: place in the chapter, from 0; `text`: a line for each paragraph."""

    chapter: str
    number: int
    text: str


@dataclass(frozen=True)
class DividedStory:
    """`dropped`: lines left out as notices, page numbers or running headers."""

    scenes: tuple[Scene, ...]
    dropped: int


def divided(text: str, chars: int) -> DividedStory:
    """The scenes of a story, each of about `chars` characters (글자 수, spaces counted)."""
    lines = [line.strip() for line in text.split("\n")]
    kept = [line for line, is_own in zip(lines, _own_lines(lines), strict=True) if is_own]
    scenes: list[Scene] = []
    for heading, paragraphs in _chapters(kept):
        scenes += [Scene(heading, number, found) for number, found in enumerate(_cut(paragraphs, chars))]
    return DividedStory(tuple(scenes), len(lines) - len(kept))


def _own_lines(lines: Sequence[str]) -> list[bool]:
    """Which lines the writer wrote: no notices, page numbers or running headers. Headings and breaks stay."""
    counts = Counter(line for line in lines if len(line) <= _LONGEST_HEADER)
    return [
        not line
        or bool(_BREAK.fullmatch(line))
        or not (
            (len(line) <= _LONGEST_NOTICE and _NOTICE.search(line))
            or (_PAGE_NUMBER.fullmatch(line) and not _is_alone(lines, place))
            or (counts[line] >= _REPEATED and len(line) >= 4 and not _ends_sentence(line))
        )
        for place, line in enumerate(lines)
    ]


def _is_alone(lines: Sequence[str], place: int) -> bool:
    """Whether a number is between blank lines, as a chapter's number is and a page's may be."""
    before = place == 0 or not lines[place - 1]
    after = place + 1 >= len(lines) or not lines[place + 1]
    return before and after and lines[place].rstrip(".").isdigit() and len(lines[place]) <= 3


def _ends_sentence(line: str) -> bool:
    return line.rstrip("\"'”’」』)]").endswith((".", "!", "?", "…", "。"))


def _chapters(lines: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """(heading, lines) of every chapter; the heading is "" for lines before the first."""
    heading, found = "", list[str]()
    for place, line in enumerate(lines):
        match = _CHAPTER.fullmatch(line) if line else None
        # A bare number is a heading only between blank lines.
        if match and (match.group("name").strip().rstrip(".").isalpha() or _is_heading(lines, place)):
            if any(found):
                yield heading, found
            heading, found = match.group("name").strip(), []
        else:
            found.append(line)
    if any(found):
        yield heading, found


def _is_heading(lines: Sequence[str], place: int) -> bool:
    line = lines[place]
    if line.startswith("#") or not line.rstrip(".").isdigit():
        return True
    return _is_alone(lines, place)


def _cut(lines: Sequence[str], chars: int) -> list[str]:
    """Scenes: paragraphs joined until they are long enough; the writer's break ends one that is not too short."""
    scenes: list[list[str]] = [[]]
    for paragraph in _paragraphs(lines, int(chars * LONGEST)):
        size = _size(scenes[-1])
        if paragraph is None:
            if size >= SHORTEST * chars:
                scenes.append([])
            continue
        full = size >= chars or size + len(paragraph) > LONGEST * chars
        if scenes[-1] and full and size >= SHORTEST * chars:
            scenes.append([])
        scenes[-1].append(paragraph)
    scenes = [scene for scene in scenes if scene]
    if len(scenes) > 1 and _size(scenes[-1]) < SHORTEST * chars:
        last = scenes.pop()
        scenes[-1] += last
    return ["\n".join(scene) for scene in scenes]


def _paragraphs(lines: Sequence[str], most: int) -> Iterator[str | None]:
    """Paragraphs of at most about `most` characters, None where the writer marked a break."""
    for line in lines:
        if _BREAK.fullmatch(line) and line:
            yield None
        elif len(line) <= most:
            if line:
                yield line
        else:
            yield from _pieces(line, most)


def _pieces(paragraph: str, most: int) -> Iterator[str]:
    """A long paragraph in whole sentences; a longer sentence stays whole."""
    piece = ""
    for sentence in sentence_units(paragraph):
        if piece and len(piece) + len(sentence) > most // 2:
            yield piece.strip()
            piece = ""
        piece += sentence
    if piece.strip():
        yield piece.strip()


def _size(paragraphs: Sequence[str]) -> int:
    return sum(map(len, paragraphs))
