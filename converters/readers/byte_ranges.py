"""Parts of a file, read without mapping it: mapped pages would count as resident memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.language import tr


def file_size(path: Path) -> int:
    """Bytes of the file `path`.

    Raises:
        InputError: it is missing, or not a regular file (a pipe or device would block or never end).
    """
    if not path.is_file():
        raise InputError(tr("{path}: no such file; the checkpoint is incomplete, get the missing file", path=path))
    return path.stat().st_size


def read_bytes(path: Path, offset: int, length: int) -> np.ndarray:
    """`length` bytes of `path` from `offset`, as uint8.

    Raises:
        InputError: the file ends before that.
        LoopaiError: the disk gives an error.
    """
    buffer = np.empty(length, np.uint8)
    view = buffer.data
    done = 0
    try:
        with path.open("rb", buffering=0) as file:
            os.lseek(file.fileno(), offset, os.SEEK_SET)
            while done < length:
                count = file.readinto(view[done:])
                if not count:
                    raise InputError(
                        tr(
                            "{path}: ends {missing} bytes too early; get a fresh copy of it",
                            path=path,
                            missing=length - done,
                        )
                    )
                done += count
    except OSError as error:
        raise LoopaiError(
            tr(
                "{path}: cannot be read ({reason}); check the disk and the file's rights",
                path=path,
                reason=error.strerror,
            )
        ) from None
    return buffer
