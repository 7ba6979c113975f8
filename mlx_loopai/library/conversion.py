"""`convert`: models from one format into another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converters.convert import Conversion, Source
from converters.convert import convert as convert_checkpoint
from converters.writers.target import FORMATS, Target
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.runs.listener import Listener, Silent


def convert(
    source: str | Path,
    out: str | Path,
    *,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    check: bool = False,
    listener: Listener | None = None,
    **target: Any,
) -> Conversion:
    """Convert nano, a Hugging Face or MLX folder, a hub id or a GGUF file to what `target` says, at `out`.

    target: fields of `converters.writers.target.Target`: `to` (mlx, hf or gguf), `dtype`, `quantize`, `group_size`,
    `keep`, `steer`; `text_only` leaves out a vision tower; `modelfile=False` leaves out the Modelfile of a GGUF file;
    `system` is the Modelfile's system prompt.
    tokenizer: a folder whose tokenizer replaces the source's own. revision: pins a hub id. check: compares every tensor
    with the source's, and the logits, before the output gets its name.

    Raises: InputError when the source, an option or `out` cannot be used; LoopaiError when the disk is full or the
    output failed its check.
    """
    to = target.get("to", "mlx")
    if to not in FORMATS:
        raise InputError(tr("`to` {to}: unknown; give one of {formats}", to=to, formats=", ".join(FORMATS)), "to")
    heard, told = listener or Silent(), set[str]()

    def on_progress(stage: str, done: int, total: int) -> None:
        if stage not in told:
            told.add(stage)
            heard.stage(stage, total)
        heard.advance(done)

    done = convert_checkpoint(
        Source.of(source, revision, tokenizer),
        Path(out),
        target=Target(**target),
        check=check,
        on_progress=on_progress,
    )
    for note in done.notes:
        heard.notice(note)
    return done
