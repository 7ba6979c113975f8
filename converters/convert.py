"""Reader, writer and verification in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.output import check_output_free, check_space, output_folder
from converters.readers import open_checkpoint
from converters.tensors import DTYPE_OPTIONS, Checkpoint
from converters.tokenizer import choose_tokenizer
from converters.verify import Verification, verify
from converters.writers.mlx import write_mlx

StageProgress = Callable[[str, int, int], None]
"""Called with the stage (`write`, `verify`), the bytes done and the bytes in all."""


@dataclass(frozen=True)
class Conversion:
    """What a conversion made. `n_bytes` counts all files; `dtype` is fp32, bf16 or fp16."""

    out: Path
    tensors: int
    n_bytes: int
    dtype: str
    verification: Verification | None


def _silent(stage: str, done: int, total: int) -> None:
    pass


def _counter(stage: str, total: int, on_progress: StageProgress) -> Callable[[int], None]:
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        on_progress(stage, done, total)

    return add


def _identity(checkpoint: Checkpoint, tokenizer: Sequence[Path], stored: str) -> dict[str, Any]:
    """What must be equal for a killed conversion to be continued: the source's files, the tokenizer's, the options."""
    return {
        "source": str(checkpoint.source.absolute()),
        "source_files": _stamps(checkpoint.files),
        "tokenizer_files": _stamps(tokenizer),
        "dtype": stored,
    }


def _stamps(paths: Sequence[Path]) -> dict[str, list[int]]:
    """Size in bytes and modification time in ns by file name."""
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}


def convert(
    source: str | Path,
    out: Path,
    *,
    tokenizer: Path | None = None,
    dtype: str | None = None,
    check: bool = False,
    on_progress: StageProgress = _silent,
) -> Conversion:
    """Convert a Hugging Face folder, hub id or GGUF file to an MLX folder at `out`.

    `tokenizer` is a folder whose tokenizer replaces the source's own. `dtype` is fp32, bf16 or fp16; without it the
    source's own type is kept (bf16 for a quantised GGUF). With `check` the output is verified before it gets its name,
    so a folder called `out` was never wrong.

    Raises:
        InputError: the source, the tokenizer or `out` cannot be used.
        LoopaiError: the disk is full, or the output failed its verification.
    """
    check_output_free(out)
    checkpoint = open_checkpoint(source)
    files = choose_tokenizer(checkpoint, tokenizer)
    stored = checkpoint.dtype if dtype is None else DTYPE_OPTIONS[dtype]
    total = sum(entry.n_bytes(stored) for entry in checkpoint.entries)
    check_space(out, total + sum(path.stat().st_size for path in files))
    with output_folder(out, _identity(checkpoint, files, stored)) as folder:
        tensors = write_mlx(folder, checkpoint, files, stored, _counter("write", total, on_progress))
        found = verify(checkpoint, folder.path, _counter("verify", total, on_progress)) if check else None
    option = next(name for name, code in DTYPE_OPTIONS.items() if code == stored)
    n_bytes = sum(path.stat().st_size for path in out.iterdir())
    return Conversion(out, tensors, n_bytes, option, found)
