"""Reads a story from a text, Markdown, Word or EPUB file, whatever encoding its writer used."""

from __future__ import annotations

import io
import posixpath
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mlx_loopai.errors import InputError, install_command
from mlx_loopai.language import tr
from mlx_loopai.text.hangul import nfc
from mlx_loopai.units import MIB

SUFFIXES = (".txt", ".md", ".markdown", ".docx", ".epub")
# A novel of a million characters has 3 MB; a packed file that opens into more is not a story.
MAX_FILE_BYTES = 64 * MIB
_CONTAINER = "META-INF/container.xml"
_BLOCKS = ("p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "blockquote", "hr")


@dataclass(frozen=True)
class Story:
    """`text`: paragraphs, a line each, blank lines where the file has them. `encoding`: as it was read."""

    path: Path
    text: str
    encoding: str = "utf-8"


def story_files(paths: list[Path]) -> list[Path]:
    """The story files among `paths` and in folders among them, in order of their names; links are not followed.

    Raises: InputError for a path that is missing, a file of another kind, or a folder without any story.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(
                file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and _is_own_file(file, path)
            )
            if not inside:
                raise InputError(
                    tr(
                        "{path}: holds no story; give a folder with {endings} files",
                        path=path,
                        endings=", ".join(SUFFIXES),
                    )
                )
            found += inside
        elif not path.exists():
            raise InputError(tr("{path}: no such file or folder; check the path", path=path))
        elif path.suffix.lower() not in SUFFIXES:
            raise InputError(
                tr(
                    "{path}: cannot read a {suffix}; give {endings}",
                    path=path,
                    suffix=path.suffix or "file without an ending",
                    endings=", ".join(SUFFIXES),
                )
            )
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def _is_own_file(file: Path, folder: Path) -> bool:
    parts = file.relative_to(folder).parts
    hidden = any(part.startswith(".") for part in parts)
    linked = any(parent.is_symlink() for parent in (file, *file.parents) if folder in parent.parents)
    return file.is_file() and not hidden and not linked


def read_story(path: Path) -> Story:
    """The story in one file. Raises: InputError when it cannot be read, is damaged, empty or far too large."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InputError(tr("{path}: {size} MiB is too large for a story; divide it", path=path, size=size // MIB))
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            tr(
                "{path}: cannot be read ({strerror}); check the path and its permissions",
                path=path,
                strerror=error.strerror,
            )
        ) from None
    suffix = path.suffix.lower()
    if suffix in (".docx", ".epub"):
        read = _word if suffix == ".docx" else _epub
        text, encoding = "\n".join(read(path, data)), suffix.removeprefix(".")
    else:
        text, encoding = _decoded(path, data)
    text = nfc(text.replace("\r\n", "\n").replace("\r", "\n").replace("\x0c", "\n"))
    if not text.strip():
        raise InputError(tr("{path}: holds no text; remove it or give another file", path=path))
    return Story(path, text, encoding)


def _decoded(path: Path, data: bytes) -> tuple[str, str]:
    """Text and encoding: a byte order mark decides, then UTF-8, UTF-16 by its zero bytes, and CP949."""
    if data.startswith(b"\xef\xbb\xbf"):
        return _as(path, data, "utf-8-sig"), "utf-8"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _as(path, data, "utf-16"), "utf-16"
    try:
        text = data.decode("utf-8")
        if "\0" not in text:
            return text, "utf-8"
    except UnicodeDecodeError:
        pass
    for encoding in ("utf-16-le", "utf-16-be", "cp949"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if _is_writing(text):
            return text, encoding
    raise InputError(tr("{path}: neither UTF-8, CP949 nor UTF-16; save it as UTF-8 and try again", path=path))


def _as(path: Path, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(
            tr(
                "{path}: not {encoding} at byte {start}; save it as UTF-8 and try again",
                path=path,
                encoding=encoding,
                start=error.start,
            )
        ) from None


def _is_writing(text: str) -> bool:
    """Whether nearly all of it is Hangul, Latin, Han or Kana with punctuation; a wrong encoding does not give that."""
    common = sum(
        char.isspace() or "\x20" <= char <= "\x7e" or "가" <= char <= "힣" or "\u2010" <= char <= "\u30ff"
        or "ㄱ" <= char <= "ㆎ" or "一" <= char <= "鿿" or "\u00a1" <= char <= "\u00ff" or "！" <= char <= "～"
        for char in text
    )  # fmt: skip
    spaces = sum(char.isspace() for char in text)
    return common >= 0.98 * len(text) and (spaces >= 0.02 * len(text) or len(text) < 50)


def _library(name: str, path: Path) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise InputError(
            tr(
                "{path}: reading {suffix} files needs an extra; {install}, or save it as .txt",
                path=path,
                suffix=path.suffix,
                install=install_command("stories"),
            )
        ) from None


def _archive(path: Path, data: bytes) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, OSError):
        raise InputError(
            tr("{path}: damaged; open it in the program that wrote it and save it again", path=path)
        ) from None
    if size > MAX_FILE_BYTES:
        raise InputError(
            tr("{path}: opens into {size} MiB, which is too large for a story; divide it", path=path, size=size // MIB)
        )
    return archive


def _word(path: Path, data: bytes) -> Iterator[str]:
    """Paragraphs of a Word document; headings are marked as in Markdown."""
    docx = _library("docx", path)
    _archive(path, data)
    try:
        document = docx.Document(io.BytesIO(data))
        for paragraph in document.paragraphs:
            heading = (paragraph.style.name or "").startswith(("Heading", "Title", "제목"))
            yield f"# {paragraph.text}" if heading and paragraph.text.strip() else paragraph.text
    except (KeyError, ValueError, zipfile.BadZipFile, SyntaxError) as error:
        raise InputError(
            tr("{path}: damaged ({name}); save it again as .docx or .txt", path=path, name=type(error).__name__)
        ) from None


def _epub(path: Path, data: bytes) -> Iterator[str]:
    """Paragraphs of an EPUB in its reading order; headings are marked as in Markdown.

    Source: EPUB 3.3 (W3C), sections 4.2.6.3.1 (container.xml) and 5.7 (spine).
    """
    trees = _library("defusedxml.ElementTree", path)
    soup = _library("bs4", path)
    archive = _archive(path, data)
    try:
        container = trees.fromstring(archive.read(_CONTAINER))
        package_path = next(node.attrib["full-path"] for node in container.iter() if _tag(node) == "rootfile")
        package = trees.fromstring(archive.read(package_path))
        files = {node.attrib["id"]: node.attrib["href"] for node in package.iter() if _tag(node) == "item"}
        order = [node.attrib["idref"] for node in package.iter() if _tag(node) == "itemref"]
        names = [
            posixpath.normpath(posixpath.join(posixpath.dirname(package_path), unquote(files[one]))) for one in order
        ]
        pages = [archive.read(name) for name in names]
    except (KeyError, StopIteration, ValueError, SyntaxError, RuntimeError, zipfile.BadZipFile) as error:
        raise InputError(
            tr(
                "{path}: damaged EPUB ({name}); export it again, or save it as .txt",
                path=path,
                name=type(error).__name__,
            )
        ) from None
    for page in pages:
        yield from _paragraphs(soup.BeautifulSoup(page, "html.parser"))
        yield ""


def _paragraphs(page: Any) -> Iterator[str]:
    body = page.body or page
    if body.find(_BLOCKS) is None:
        yield from body.get_text("\n").splitlines()
        return
    for block in body.find_all(_BLOCKS):
        if block.find(_BLOCKS) is not None:  # its parts come by themselves
            continue
        text = " ".join(block.get_text().split())
        if block.name == "hr":
            yield "***"
        elif text:
            yield f"# {text}" if block.name.startswith("h") else text


def _tag(node: Any) -> str:
    return str(node.tag).rpartition("}")[2]
