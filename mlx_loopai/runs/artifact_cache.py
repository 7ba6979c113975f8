"""What a run makes before its first step, kept for other runs of the same base, rows and options."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_loopai.files import cache_folder, digest_name, is_sealed, seal_path, whole_file

if TYPE_CHECKING:
    from mlx_loopai.models.load import LoadedModel


def kept_path(name: str, loaded: LoadedModel, parts: Sequence[Any], suffix: str) -> Path:
    """The file in the cache folder for something made from this base with `parts` (JSON values)."""
    return cache_folder() / f"{name}-{digest_name([*loaded.cache_key, *parts])}{suffix}"


def keep(path: Path, kept: Path) -> None:
    """Keep the sealed `path` as `kept`. A cache that cannot be written costs time, not the result."""
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        _copy(path, kept)


def fetch(kept: Path, path: Path) -> bool:
    """Put what is `kept` at `path`, with its seal; whether there was something that is as it was written."""
    if not is_sealed(kept):
        return False
    try:
        _copy(kept, path)
    except OSError:
        return False
    return True


def _copy(source: Path, target: Path) -> None:
    """A copy of its own: what is changed in a run must not change the cache, nor the other way round."""
    for one, other in ((source, target), (seal_path(source), seal_path(target))):
        with whole_file(other) as temporary:
            shutil.copyfile(one, temporary)
