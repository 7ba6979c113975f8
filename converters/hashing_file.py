"""Writes a file and computes its sha256 at the same time; a finished file is on the disk (fsync)."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

_BUFFER_BYTES = 2 << 20
# One is filled, one hashed, one written; the fourth evens out differences in speed.
_BUFFERS = 4


class HashingFile:
    """A file under construction that knows the sha256 of what was written to it.

    Data are collected in a few buffers; one thread hashes a full buffer while another writes it to the disk.
    """

    def __init__(self, handle: int, hasher: ThreadPoolExecutor, writer: ThreadPoolExecutor) -> None:
        self._handle, self._hasher, self._writer = handle, hasher, writer
        self._sha256 = hashlib.sha256()
        # mmap gives memory that begins at a page, as O_DIRECT requires.
        self._buffers = [np.frombuffer(mmap.mmap(-1, _BUFFER_BYTES), np.uint8) for _ in range(_BUFFERS)]
        self._pending: list[list[Future[None]]] = [[] for _ in self._buffers]
        self._at = self._filled = self._sent = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append all of `data`. Raises: OSError, also for what was appended before."""
        rest = np.frombuffer(data, np.uint8)
        while rest.size:
            part = rest[: _BUFFER_BYTES - self._filled]
            self._buffers[self._at][self._filled : self._filled + part.size] = part
            self._filled += part.size
            if self._filled == _BUFFER_BYTES:
                self._send()
            rest = rest[part.size :]

    def finish(self) -> dict[str, str | int]:
        """Put the rest on the disk. Returns: the sha256 in hexadecimal, and the bytes. Raises: OSError."""
        self._send()
        for at in range(_BUFFERS):
            self._wait_for(at)
        # O_DIRECT writes whole pages, so the last one was padded.
        os.ftruncate(self._handle, self._sent)
        os.fsync(self._handle)
        return {"sha256": self._sha256.hexdigest(), "bytes": self._sent}

    def _send(self) -> None:
        buffer, count = self._buffers[self._at], self._filled
        pages = -(-count // mmap.PAGESIZE) * mmap.PAGESIZE
        self._pending[self._at] = [
            self._hasher.submit(self._sha256.update, buffer[:count].data),
            self._writer.submit(self._put, buffer[:pages].data),
        ]
        self._sent += count
        self._at, self._filled = (self._at + 1) % _BUFFERS, 0
        self._wait_for(self._at)

    def _put(self, view: memoryview) -> None:
        while view:
            view = view[os.write(self._handle, view) :]

    def _wait_for(self, at: int) -> None:
        for future in self._pending[at]:
            future.result()


def _write_around_cache(handle: int) -> None:
    # Copying through the page cache costs more than all the rest, and evicts pages that other programs use.
    if hasattr(os, "O_DIRECT"):
        with contextlib.suppress(OSError):  # a file system that cannot, such as some tmpfs, is written the usual way
            fcntl.fcntl(handle, fcntl.F_SETFL, fcntl.fcntl(handle, fcntl.F_GETFL) | os.O_DIRECT)


@contextlib.contextmanager
def hashing_file(path: Path) -> Iterator[HashingFile]:
    """A new file at `path`; the block ends with `finish`. Raises: OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        _write_around_cache(handle)
        with ThreadPoolExecutor(1) as hasher, ThreadPoolExecutor(1) as writer:
            yield HashingFile(handle, hasher, writer)
    finally:
        os.close(handle)
