"""Writes files and folders atomically (temporary name, fsync, rename); locks folders; checksums; refuses links out."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

CACHE_VARIABLE = "MLX_LOOPAI_CACHE"
_LARGE_JSON = 1 << 20


def cache_folder() -> Path:
    """`MLX_LOOPAI_CACHE`, or ~/.cache/mlx-loopai."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "mlx-loopai"


def digest_name(parts: Any, digits: int = 32) -> str:
    """A hash, in hexadecimal, of the JSON values from which a file was made, to be a part of its name."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]


def write_whole(path: Path, text: str) -> None:
    """Write `text` as UTF-8: afterwards `path` holds all of it, or, after an OSError, what it held before."""
    with whole_file(path) as temporary:
        # newline: the same bytes on every system
        temporary.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that is renamed to `path` when the block succeeds, else deleted.

    The temporary name keeps `path`'s suffix, which some writers require.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_file(path.parent)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that is renamed to `folder` when the block succeeds, else deleted.

    Its files are synced to the disk before that, and an older `folder` stays until the new one is complete.
    """
    temporary, old = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.iterdir():
            sync_file(file)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.rename(folder, old)
        os.rename(temporary, folder)
        sync_file(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_link_out(file: Path, folder: Path) -> None:
    """Refuse a link that leads out of `folder`, except into the `blobs` folder of the hub's cache.

    Raises: InputError.
    """
    if not file.is_symlink() and not any(parent.is_symlink() for parent in file.parents if folder in parent.parents):
        return
    target, home = file.resolve(), folder.resolve()
    blobs = next((parent.parent / "blobs" for parent in (home, *home.parents) if parent.name == "snapshots"), None)
    if not target.is_relative_to(home) and not (blobs is not None and target.is_relative_to(blobs)):
        raise InputError(
            tr(
                "{file}: is a link to {target}, out of {folder}; put the file itself there",
                file=file,
                target=target,
                folder=folder,
            )
        )


def refuse_links_out(folder: Path, patterns: Iterable[str]) -> None:
    """Refuse a folder in which a file that matches `patterns` is a link out of it. Raises: InputError."""
    for pattern in patterns:
        for file in folder.glob(pattern):
            refuse_link_out(file, folder)


def mostly_brackets(text: str | bytes) -> bool:
    """Whether a large JSON text is mostly brackets, which would take thirty times its size in memory when parsed."""
    if len(text) < _LARGE_JSON:
        return False
    brackets = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    return brackets > len(text) / 6


@contextmanager
def locked_folder(folder: Path, taken: str) -> Iterator[None]:
    """Lock the folder for this process; the kernel releases the lock when the process ends, however it ends.

    Raises: InputError with the message `taken` when another process holds the lock.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(taken) from None
        yield
    finally:
        os.close(handle)


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock of `locked_folder`; to find out, the lock is taken for an instant."""
    try:
        with locked_folder(folder, ""):
            return False
    except InputError:
        return True
    except OSError:  # there is no such folder
        return False


def checksum(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises: OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seal_path(path: Path) -> Path:
    """The file beside `path` that holds its checksum."""
    return path.with_name(path.name + ".sha256")


def seal(path: Path) -> None:
    """Write the checksum of `path` to a file beside it, so that a later change or damage can be detected."""
    write_whole(seal_path(path), f"{checksum(path)}  {path.name}\n")


def is_sealed(path: Path) -> bool:
    """Whether `path` is unchanged since it was sealed; False where either file is missing or unreadable."""
    try:
        return checksum(path) == seal_path(path).read_text(encoding="ascii").split()[0]
    except (OSError, ValueError, IndexError):
        return False


def require_seal(path: Path) -> None:
    """Raises: InputError for a file that was changed or damaged since it was sealed."""
    if not is_sealed(path):
        raise InputError(
            tr(
                "{path}: changed or damaged since it was written (checksum); restore it, or delete it to make it anew",
                path=path,
            )
        )


def sync_file(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
