"""Keeps the tokens of large sources on the disk, so that the next run on the same rows starts at once.

A file's name is a hash of everything that the rows depend on: the bytes of the data files, the tokenizer and its chat
template, the options, and this code. The file has a checksum. Together the files take at most `MOST_BYTES`; the least
recently used are deleted first.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import re
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from mlx_loopai.data.encoding import SplitNotice
from mlx_loopai.data.learnt import Learnt, Source
from mlx_loopai.data.records import Scan
from mlx_loopai.data.row_file import RowFile, RowWriter
from mlx_loopai.data.tokens import ChatEncoder, text_start
from mlx_loopai.errors import InputError
from mlx_loopai.files import cache_folder, checksum, digest_name, is_sealed, seal, seal_path, whole_file
from mlx_loopai.language import in_use, tr
from mlx_loopai.progress import Advance, ignore
from mlx_loopai.units import MIB

MOST_BYTES = 8 << 30
# Of files from this size on, faster encoding gains more than preparing it takes.
_HASTENED_BYTES = 8 * MIB
_SUFFIX = ".rows"
_ABANDONED_S = 86400.0


def token_folder() -> Path:
    """The folder of the files; a person may delete it at any time."""
    return cache_folder() / "tokens"


def kept_rows(source: Source, encoder: ChatEncoder, tokenizer: Any, on_read: Advance = ignore) -> Learnt:
    """The rows of a source of text in files; read from the cache where an earlier run has left them.

    Raises: InputError as `Source.encode_into`; OSError where they cannot be written.
    """
    assert source.scan is not None, "anything but a file of rows is small"
    path = token_folder() / f"{digest_name(_made_of(source, source.scan, encoder, tokenizer))}{_SUFFIX}"
    damaged = path.exists() and not is_sealed(path)
    if damaged or not path.exists():
        _write(path, source, source.scan, encoder, on_read)
    with contextlib.suppress(OSError):
        os.utime(path)
    rows = RowFile(path, source.scan.files, source.category)
    notices: list[str] = rows.notes["notices"]
    if damaged:
        notices = [*notices, tr("{kept}: changed or damaged since it was written; it is made anew", kept=path)]
    split = rows.notes["split"]
    return Learnt(rows, split and SplitNotice(**split), tuple(notices))


def _write(path: Path, source: Source, scan: Scan, encoder: ChatEncoder, on_read: Advance) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    quick = encoder.hasten() if scan.size_bytes >= _HASTENED_BYTES else None
    with whole_file(path) as temporary, temporary.open("wb") as file, closing(RowWriter(file, scan.files)) as writer:
        split, notices = source.encode_into(writer, encoder, on_read)
        if quick is not None and quick.differs:
            notices = (
                *notices,
                tr(
                    "tiktoken gave other tokens than the model's tokenizer and was not used, so encoding was slower; "
                    "please report this with the model's name"
                ),
            )
        writer.finish({"split": split and vars(split), "notices": notices})
    seal(path)
    _make_room(path)


def _make_room(newest: Path) -> None:
    """Delete the least recently used files beyond `MOST_BYTES`, but never the newest."""
    files = sorted(newest.parent.glob(f"*{_SUFFIX}"), key=lambda file: (file == newest, file.stat().st_mtime))
    size = sum(file.stat().st_size for file in files)
    for left in newest.parent.glob(f".*.tmp{_SUFFIX}"):  # by a process that was killed
        if left.stat().st_mtime < time.time() - _ABANDONED_S:
            left.unlink(missing_ok=True)
    for file in files[:-1]:
        if size <= MOST_BYTES:
            return
        size -= file.stat().st_size
        for one in (file, seal_path(file)):
            one.unlink(missing_ok=True)


def _made_of(source: Source, scan: Scan, encoder: ChatEncoder, tokenizer: Any) -> list[Any]:
    """Everything that the rows depend on, as JSON values."""
    try:
        files = [[str(file), checksum(file)] for file in scan.files]
    except OSError as error:
        raise InputError(tr("{path}: cannot be read: {strerror}", path=source.path, strerror=error.strerror)) from None
    return [
        files,
        [str(file) for file in scan.left_out_files],
        tokenizer_digest(tokenizer),
        encoder.system_prompt,
        source.form.max_tokens,
        source.how and source.how.model_dump(mode="json"),
        source.preference.model_dump(mode="json", include={"objective"}),
        in_use(),
        _code(Path(__file__).parent.glob("*.py")),
    ]


def tokenizer_digest(tokenizer: Any) -> str:
    """Hash of everything in a tokenizer and its chat template that decides the tokens of a text."""
    inner = getattr(tokenizer, "_tokenizer", tokenizer)  # mlx-lm's wrapper
    template = str(getattr(tokenizer, "chat_template", None) or "")
    parts = [
        type(inner).__name__,
        inner.backend_tokenizer.to_str(),
        template,
        # A template that writes the date gives different rows tomorrow.
        datetime.date.today().isoformat() if re.search(r"strftime|date", template) else "",
        tokenizer.eos_token_id,
        text_start(tokenizer),
        sorted(map(str, inner.added_tokens_decoder.items())),
    ]
    return digest_name(parts)


def _code(files: Any) -> str:
    found = hashlib.sha256()
    for file in sorted(files):
        found.update(file.read_bytes())
    return found.hexdigest()
