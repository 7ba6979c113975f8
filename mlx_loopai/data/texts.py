"""Reads a whole text file, with errors that name the cure."""

from __future__ import annotations

from pathlib import Path

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr


def read_text(path: Path, if_missing: str, if_folder: str) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises: InputError; if_missing, if_folder: what to do about a missing file, and about a folder.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(tr("{path}: no such file; {if_missing}", path=path, if_missing=if_missing)) from None
    except IsADirectoryError:
        raise InputError(tr("{path}: is a folder; {if_folder}", path=path, if_folder=if_folder)) from None
    except UnicodeDecodeError as error:
        raise InputError(
            tr("{path}: not UTF-8 at byte {start}; convert it: iconv -f cp949 -t utf-8", path=path, start=error.start)
        ) from None
