"""Stories in the encodings and containers that people have."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import docx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_loopai.data.stories import reading
from mlx_loopai.data.stories.reading import read_story, story_files
from mlx_loopai.errors import InputError

TEXT = "첫눈이 내린 아침이었다.\n할머니는 아궁이에 불을 지폈다.\n" * 5
CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)
PACKAGE = (
    '<package xmlns="http://www.idpf.org/2007/opf"><manifest><item id="b" href="two.xhtml"/><item id="a" href="on%65.xhtml"/>'
    '</manifest><spine><itemref idref="a"/><itemref idref="b"/></spine></package>'
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949", "utf-16", "utf-16-le", "utf-16-be"])
def test_every_usual_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "story.txt"
    path.write_bytes(TEXT.encode(encoding))
    story = read_story(path)
    assert story.text == TEXT
    assert story.encoding == encoding.removesuffix("-sig")


@pytest.mark.parametrize("data", [b"", b" \n", b"\xff\xfe\x00", bytes(range(128, 256)) * 4, b"\x00\x01\x02\x03" * 50])
def test_what_is_no_text_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "story.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"story\.txt"):
        read_story(path)


@settings(max_examples=60)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    path = Path("/tmp") / f"mlx-loopai-story-{os.getpid()}.txt"
    path.write_bytes(data)
    try:
        assert read_story(path).text.strip()
    except InputError as error:
        assert str(path) in str(error)
    finally:
        path.unlink()


def test_a_word_file(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_heading("첫눈", level=1)
    for line in TEXT.splitlines():
        document.add_paragraph(line)
    document.save(str(tmp_path / "story.docx"))
    story = read_story(tmp_path / "story.docx")
    assert story.text.startswith("# 첫눈\n첫눈이 내린")
    assert story.encoding == "docx"


def epub(path: Path, pages: dict[str, str], container: str = CONTAINER, package: str = PACKAGE) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("META-INF/container.xml", container)
        archive.writestr("OEBPS/book.opf", package)
        for name, page in pages.items():
            archive.writestr(f"OEBPS/{name}", page)
    return path


def test_an_epub_is_read_in_its_reading_order(tmp_path: Path) -> None:
    pages = {
        "two.xhtml": "<html><head><title>x</title></head><body><p>둘째 장면.</p></body></html>",
        "one.xhtml": "<html><body><h1>첫눈</h1><div><p>첫째 <i>장면</i>.</p></div><hr/><p>끝.</p></body></html>",
    }
    story = read_story(epub(tmp_path / "book.epub", pages))
    assert [line for line in story.text.split("\n") if line] == ["# 첫눈", "첫째 장면.", "***", "끝.", "둘째 장면."]


def test_hostile_containers_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><container>&b;</container>'
    page = {"one.xhtml": "<p>하나.</p>", "two.xhtml": "<p>둘.</p>"}
    outside = PACKAGE.replace("two.xhtml", "../../../../etc/passwd")
    files = [
        epub(tmp_path / "bomb.epub", page, container=bomb),
        epub(tmp_path / "outside.epub", page, package=outside),
        epub(tmp_path / "missing.epub", {"one.xhtml": "<p>하나.</p>"}),
    ]
    (tmp_path / "broken.epub").write_bytes(b"PK\x03\x04 broken")
    (tmp_path / "broken.docx").write_bytes(files[0].read_bytes())
    for path in (*files, tmp_path / "broken.epub", tmp_path / "broken.docx"):
        with pytest.raises(InputError, match="damaged") as refused:
            read_story(path)
        assert "\n" not in str(refused.value)
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 10_000)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("META-INF/container.xml", "0" * 50_000)
    (tmp_path / "large.epub").write_bytes(packed.getvalue())
    with pytest.raises(InputError, match="too large"):
        read_story(tmp_path / "large.epub")


def test_folders_give_their_stories_and_never_what_lies_outside(tmp_path: Path) -> None:
    folder, outside = tmp_path / "stories", tmp_path / "outside"
    for place in (folder / "b", outside):
        place.mkdir(parents=True)
    for path in (
        folder / "b" / "둘.txt",
        folder / "하나.md",
        folder / "rows.csv",
        folder / ".hidden.txt",
        outside / "x.txt",
    ):
        path.write_text("글", encoding="utf-8")
    (folder / "link.txt").symlink_to(outside / "x.txt")
    (folder / "linked").symlink_to(outside)
    assert story_files([folder]) == [folder / "b" / "둘.txt", folder / "하나.md"]
    with pytest.raises(InputError, match="holds no story"):
        story_files([tmp_path / "outside" / ".." / "empty"] if (tmp_path / "empty").mkdir() is None else [])
    with pytest.raises(InputError, match="no such file"):
        story_files([tmp_path / "nowhere"])
    with pytest.raises(InputError, match=r"\.csv"):
        story_files([folder / "rows.csv"])
