"""A cache of what runs compute before their first step, for other runs with the same base, rows and options."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlx_loopai.files import cache_folder, digest_name, is_sealed, seal, seal_path, whole_file

if TYPE_CHECKING:
    from mlx_loopai.models.load import LoadedModel


def kept_path(name: str, loaded: LoadedModel, parts: Sequence[Any], suffix: str) -> Path:
    """The cache file for something made from this base; `parts`: JSON values of everything else that it depends on."""
    return cache_folder() / f"{name}-{digest_name([*loaded.cache_key, *parts])}{suffix}"


def keep(path: Path, kept: Path) -> None:
    """Keep the sealed `path` as `kept`. A cache that cannot be written costs time, not the result."""
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        _copy(path, kept)


def fetch(kept: Path, path: Path) -> bool:
    """Copy `kept` to `path`, with its checksum; False when there is no such file or it is damaged."""
    if not is_sealed(kept):
        return False
    try:
        _copy(kept, path)
    except OSError:
        return False
    return True


def keep_array(array: npt.NDArray[Any], kept: Path) -> None:
    """Keep `array` as the .npy file `kept`, sealed. A cache that cannot be written costs time, not the result."""
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(kept) as temporary:
            np.save(temporary, array)
        seal(kept)


def fetch_array(kept: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any] | None:
    """The array of `keep_array`, mapped and not to be written to; None where there is none so, or it is damaged."""
    if not is_sealed(kept):
        return None
    try:
        found = np.load(kept, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == shape and found.dtype == dtype else None


def _copy(source: Path, target: Path) -> None:
    """Copy and do not link, so that a change in a run's folder does not change the cache, nor the reverse."""
    for one, other in ((source, target), (seal_path(source), seal_path(target))):
        with whole_file(other) as temporary:
            shutil.copyfile(one, temporary)
