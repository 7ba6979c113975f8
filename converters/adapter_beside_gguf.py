"""An adapter for a base that is a GGUF file: the adapter's own file, and Ollama's Modelfile of both together."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from converters.output import check_output_free
from converters.readers import open_checkpoint
from converters.tokenizer import choose_tokenizer
from converters.writers.gguf_adapter import write_gguf_adapter
from converters.writers.modelfile import check_system, modelfile, modelfile_of
from mlx_loopai.files import write_whole
from mlx_loopai.models.adapter_folder import Adapter


def write_beside_gguf(out: Path, adapter: Adapter, base: Path) -> Path:
    """Write `adapter` to the file `out`, for the GGUF file `base`. Returns: the Modelfile beside it, which names both.

    Raises:
        InputError: something is at one of the two places, `base` cannot be read, or the adapter does not fit it.
        OSError: a file cannot be written.
    """
    place = modelfile_of(out)
    check_output_free(place)
    system = str(adapter.notes.get("system_prompt") or "")
    check_system(system)
    checkpoint = open_checkpoint(base)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = choose_tokenizer(checkpoint, None, Path(scratch))
        beside = Path(os.path.relpath(base.resolve(), out.resolve().parent)).as_posix()
        text = modelfile(
            beside if beside.startswith("../") else f"./{beside}",
            tokenizer,
            checkpoint.generation_config,
            adapter=f"./{out.name}",
            system=system,
        )
    write_gguf_adapter(out, adapter, checkpoint.config, str(base))
    write_whole(place, text)
    return place
