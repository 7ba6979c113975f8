"""What a run makes before its first step, kept for other runs of the same base, rows and options."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_loopai.files import cache_folder, digest_name

if TYPE_CHECKING:
    from mlx_loopai.models.load import LoadedModel


def kept_path(name: str, loaded: LoadedModel, parts: Sequence[Any], suffix: str) -> Path:
    """The file in the cache folder for something made from this base with `parts` (JSON values)."""
    return cache_folder() / f"{name}-{digest_name([*loaded.cache_key, *parts])}{suffix}"


def keep(path: Path, kept: Path) -> None:
    """Keep `path` as `kept`. A cache that cannot be written costs time, not the result."""
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        _share(path, kept)


def fetch(kept: Path, path: Path) -> bool:
    """Put what is `kept` at `path`; whether there was something."""
    try:
        _share(kept, path)
    except OSError:
        return False
    return True


def _share(source: Path, target: Path) -> None:
    """One copy on the disk where the file system allows it: files are only ever replaced as a whole."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)
