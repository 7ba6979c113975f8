"""Converts a checkpoint in one call: reads the source, writes the output and verifies it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.output import (
    check_output_free,
    check_space,
    files_in,
    output_file,
    output_folder,
    sha256_of,
    work_folder,
)
from converters.readers import open_checkpoint
from converters.steering import Steering, steered
from converters.tensors import Checkpoint
from converters.tokenizer import choose_tokenizer
from converters.verify import Verification, verify
from converters.vision_tower import Written
from converters.writers.modelfile import modelfile, modelfile_of
from converters.writers.target import Plan, Target, make_plan
from mlx_loopai.errors import InputError
from mlx_loopai.files import write_whole
from mlx_loopai.language import tr
from mlx_loopai.models.load import NANO, NANO_FOLDER

StageProgress = Callable[[str, int, int], None]
"""Called with the stage (`write`, `verify`), the bytes done and the bytes in all."""


@dataclass(frozen=True)
class Conversion:
    """What a conversion made. `n_bytes` counts all files; `dtype` names the main form (bf16, 4bit, q8_0, ...).

    `notes`: a sentence for each thing that was read differently from what the source's files state.
    """

    out: Path
    tensors: int
    n_bytes: int
    dtype: str
    verification: Verification | None
    notes: tuple[str, ...] = ()


def _silent(stage: str, done: int, total: int) -> None:
    pass


def _counter(stage: str, total: int, on_progress: StageProgress) -> Callable[[int], None]:
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        on_progress(stage, done, total)

    return add


def identity(checkpoint: Checkpoint, tokenizer: Sequence[Path], plan: Plan) -> dict[str, Any]:
    """What identifies a conversion, so that a killed one can be resumed: source files, tokenizer files, options."""
    return {
        "source": str(checkpoint.source.absolute()),
        "source_files": _stamps(checkpoint.files),
        # By content, not by time: a tokenizer rebuilt from a GGUF file is a new file each time.
        "tokenizer_files": {path.name: sha256_of(path) for path in tokenizer},
        "encoder_files": _stamps(plan.added),
        "dtype": plan.forms.dtype,
        "forms": {
            name: form if isinstance(form, str) else form.as_config() for name, form in plan.forms.by_name.items()
        },
        "target": {key: list(value) if isinstance(value, tuple) else value for key, value in vars(plan.target).items()},
    }


def _stamps(paths: Sequence[Path]) -> dict[str, list[int]]:
    """Size in bytes and modification time in ns by file name."""
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}


@dataclass(frozen=True)
class Source:
    """Where a conversion reads: a folder, hub id or GGUF file, and for a hub id the `revision` that is wanted.

    `tokenizer` is a folder whose tokenizer replaces the model's own.
    """

    model: str | Path
    revision: str | None = None
    tokenizer: Path | None = None

    @staticmethod
    def of(model: str | Path, revision: str | None, tokenizer: str | Path | None) -> Source:
        """The source that a person names; `nano` is the embedded model."""
        return Source(NANO_FOLDER if model == NANO else model, revision, None if tokenizer is None else Path(tokenizer))


def convert(
    source: str | Path | Source,
    out: Path,
    *,
    dtype: str | None = None,
    target: Target | None = None,
    check: bool = False,
    on_progress: StageProgress = _silent,
) -> Conversion:
    """Convert a Hugging Face or MLX folder, hub id or GGUF file to what `target` says, at `out`.

    Without a `target` it is an MLX folder whose weights are `dtype` (None: the source's own type, bf16 for a quantised
    GGUF). A folder is made for mlx and hf, one file for gguf with its Modelfile beside it.
    With `check` the output is verified under a temporary name, and gets the name `out` only if it is correct.

    Raises:
        InputError: the source, the tokenizer, the options or `out` cannot be used.
        LoopaiError: the disk is full, or the output failed its verification.
    """
    if target is not None and dtype is not None:
        raise InputError(tr("`dtype` {dtype}: `target` has a dtype of its own; give one of the two", dtype=dtype))
    source = source if isinstance(source, Source) else Source(source)
    target = target or Target(dtype=dtype)
    target.check()
    check_output_free(out)
    checkpoint = open_checkpoint(source.model, source.revision)
    with work_folder(out) as work:
        files = choose_tokenizer(checkpoint, source.tokenizer, work)
        if target.steer:
            checkpoint = steered(checkpoint, files, Steering.parse(target.steer))
        plan = make_plan(target, checkpoint)
        check_space(out, plan.n_bytes + plan.scratch_bytes + sum(path.stat().st_size for path in files))
        count = _counter("write", plan.n_bytes, on_progress)
        if target.to == "gguf":
            with output_file(out, work) as path:
                tensors = plan.write_file(path, checkpoint, files, count)
                found = _verify(checkpoint, path, plan, on_progress) if check else None
            notes = _write_modelfile(out, checkpoint, files, target) if target.modelfile else ()
        else:
            with output_folder(out, identity(checkpoint, files, plan)) as folder:
                tensors = plan.write_folder(folder, checkpoint, files, count)
                found = _verify(checkpoint, folder.path, plan, on_progress) if check else None
            notes = ()
    return Conversion(
        out=out,
        tensors=tensors,
        n_bytes=sum(path.stat().st_size for path in files_in(out)) if out.is_dir() else out.stat().st_size,
        dtype=plan.label,
        verification=found,
        notes=(*checkpoint.notes, *plan.notes, *notes),
    )


def _write_modelfile(out: Path, checkpoint: Checkpoint, tokenizer: Sequence[Path], target: Target) -> tuple[str, ...]:
    """Write Ollama's Modelfile beside the GGUF file `out`. Returns: a note when one was there, which is left alone."""
    place = modelfile_of(out)
    if place.exists():
        return (f"{place} was there already and is left as it was",)
    text = modelfile(f"./{out.name}", tokenizer, checkpoint.generation_config, system=target.system)
    write_whole(place, text)
    return ()


def _verify(checkpoint: Checkpoint, place: Path, plan: Plan, on_progress: StageProgress) -> Verification:
    written = Written(checkpoint, plan.tower, plan.added)
    return verify(written, place, _counter("verify", plan.n_bytes, on_progress), plan.rounding)
