"""The output folder: it appears complete or not at all, and a killed conversion can be continued.

Files are written under `.NAME.partial` beside the folder. `manifest.json` there lists every finished file with its
sha256, and until the end the conversion that it belongs to; the same conversion, started again, checks those files and
goes on after them. Another conversion to the same place starts over.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from converters.hashing_file import HashingFile, hashing_file
from converters.json_files import read_object, write_object
from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.files import locked_folder, sync_file, whole_file
from mlx_loopai.language import tr
from mlx_loopai.units import format_bytes

MANIFEST = "manifest.json"


def sha256_of(path: Path) -> str:
    """The file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_in(folder: Path) -> list[Path]:
    """All files within `folder`, those in folders of it too, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


class OutputFolder:
    """A folder being filled; `path` is its temporary place. Writers ask `has` before they write a large file."""

    def __init__(self, path: Path, made_from: Mapping[str, Any]) -> None:
        self.path = path
        self.made_from = dict(made_from)
        self.finished = self._resume()

    def has(self, name: str) -> bool:
        """Whether an earlier run of this conversion finished the file `name`."""
        return name in self.finished

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[HashingFile]:
        """Write the file `name`; when the block ends well it counts as finished. Raises: OSError."""
        with hashing_file(self.path / name) as file:
            yield file
            self.finished[name] = file.finish()
        self._write_manifest({"made_from": self.made_from})

    def seal(self) -> None:
        """List the files that were written without `file`, so that the manifest holds all of them. Raises: OSError."""
        for path in files_in(self.path):
            name = path.relative_to(self.path).as_posix()
            if name not in (MANIFEST, *self.finished):
                self.finished[name] = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
                sync_file(path)
        self._write_manifest({})

    def _write_manifest(self, more: Mapping[str, Any]) -> None:
        with whole_file(self.path / MANIFEST) as temporary:
            write_object(temporary, {**more, "files": dict(sorted(self.finished.items()))})

    def _resume(self) -> dict[str, dict[str, Any]]:
        """The finished files of an earlier run of the same conversion; everything else in the folder is removed."""
        listed: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(InputError):
            manifest = read_object(self.path / MANIFEST)
            if manifest.get("made_from") == self.made_from and isinstance(manifest.get("files"), dict):
                listed = manifest["files"]
        kept = {name: info for name, info in listed.items() if self._is_whole(name, info)}
        for path in files_in(self.path):
            if path.relative_to(self.path).as_posix() not in kept:
                path.unlink()
        return kept

    def _is_whole(self, name: str, info: Any) -> bool:
        path = self.path / name
        return isinstance(info, dict) and path.is_file() and sha256_of(path) == info.get("sha256")


def check_output_free(out: Path) -> None:
    """Refuse to write where something is already.

    Raises:
        InputError: `out` is a file, or a folder that is not empty.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(tr("{out}: is a file where the output folder should be; choose another `out`", out=out))
    if any(out.iterdir()):
        raise InputError(
            tr("{out}: already holds files and is never overwritten; choose another `out` or remove it", out=out)
        )


@contextlib.contextmanager
def output_folder(out: Path, made_from: Mapping[str, Any]) -> Iterator[OutputFolder]:
    """A folder beside `out` that takes its name, with a manifest, when the block ends well.

    An error removes it. A killed or interrupted run leaves it, and the next one with the same `made_from` (JSON values
    that identify the conversion) finds its finished files.

    Raises:
        InputError: `out` is not free, or another process is filling it.
        LoopaiError: the disk is full, or the folder cannot be written.
    """
    check_output_free(out)
    out = out.absolute()
    temporary = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir(exist_ok=True)
        with _locked(temporary, out):
            try:
                folder = OutputFolder(temporary, made_from)
                yield folder
                folder.seal()
                sync_file(temporary)
                # Another program may have filled `out` meanwhile; rename replaces an empty folder only.
                os.rename(temporary, out)
            except Exception:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        sync_file(out.parent)
    except OSError as error:
        raise _as_one_line(error, out) from error


@contextlib.contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` for temporary files, removed when the block ends.

    Its name follows from `out`, so that the next run removes what a killed run left there.

    Raises:
        InputError: another process is working on `out`.
        LoopaiError: the folder cannot be made.
    """
    folder = out.absolute().with_name(f".{out.name}.work")
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder, out):
            try:
                for path in folder.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(OSError):
                    for parent in new_parents:
                        parent.rmdir()  # only while nothing is in it
    except OSError as error:
        raise _as_one_line(error, out) from error


@contextlib.contextmanager
def output_file(out: Path, work: Path) -> Iterator[Path]:
    """A file in the folder `work` beside `out` that takes its name when the block ends well.

    Raises:
        InputError: something is at `out` already.
        LoopaiError: the disk is full, or the file cannot be written.
    """
    if out.exists():
        raise InputError(
            tr("{out}: is already there and never overwritten; choose another `out` or remove it", out=out)
        )
    temporary = work / out.name
    try:
        yield temporary
        sync_file(temporary)
        os.rename(temporary, out)
        sync_file(out.absolute().parent)
    except OSError as error:
        raise _as_one_line(error, out) from error


def _locked(folder: Path, out: Path) -> contextlib.AbstractContextManager[None]:
    return locked_folder(folder, f"{out}: another process is writing it; wait for it or choose another `out`")


def _as_one_line(error: OSError, out: Path) -> LoopaiError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LoopaiError(
            tr("{out}: the disk is full and nothing was kept; free some space or choose another `out`", out=out)
        )
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
        return InputError(
            tr("{out}: already holds files and is never overwritten; choose another `out` or remove it", out=out)
        )
    return LoopaiError(
        tr("{out}: cannot be written ({strerror}); choose another `out`", out=out, strerror=error.strerror or error)
    )


def check_space(out: Path, n_bytes: int) -> None:
    """Refuse at once, rather than after minutes, an output that does not fit on the disk.

    Raises:
        LoopaiError: the file system of `out` has less than `n_bytes` free, what a killed run left counted as free.
    """
    place = out.absolute()
    partial = place.with_name(f".{place.name}.partial")
    while not place.exists():
        place = place.parent
    kept = sum(path.stat().st_size for path in files_in(partial))
    free = shutil.disk_usage(place).free + kept
    if free < n_bytes:
        raise LoopaiError(
            tr(
                "{out}: the disk is full: the output needs {n_bytes} but {free} are free; free some space, "
                "choose another `out`, or a smaller `dtype`",
                out=out,
                n_bytes=format_bytes(n_bytes),
                free=format_bytes(free),
            )
        )
