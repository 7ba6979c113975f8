"""Writes K-quants by llama.cpp itself, since the `gguf` package can only read them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.language import tr


@dataclass(frozen=True)
class KQuant:
    """`file_type`: llama.cpp's name for it. bits: of its coarsest matrices. bits_per_weight: about, of a whole file."""

    file_type: str
    bits: int
    bits_per_weight: float


K_QUANTS = {
    "q4_k_m": KQuant("LLAMA_FTYPE_MOSTLY_Q4_K_M", 4, 4.9),
    "q5_k_m": KQuant("LLAMA_FTYPE_MOSTLY_Q5_K_M", 5, 5.7),
    "q6_k": KQuant("LLAMA_FTYPE_MOSTLY_Q6_K", 6, 6.6),
}


def check_engine(word: str) -> None:
    """Raises: InputError where llama.cpp is not installed."""
    try:
        import llama_cpp  # noqa: F401
    except ImportError:
        raise InputError(
            tr("`quantize` {word}: needs llama.cpp; install mlx-loopai[gguf], or take q8_0 or q4_0", word=word)
        ) from None


def quantize_file(source: Path, out: Path, word: str) -> None:
    """Write the dense GGUF file `source` to `out` with its matrices as `word`.

    Which matrix gets how many bits is llama.cpp's choice: Q4_K_M gives values and half of the down projections more.

    Raises:
        LoopaiError: llama.cpp failed; its own lines say why.
    """
    import llama_cpp

    lines: list[str] = []

    @llama_cpp.llama_log_callback
    def keep(level: int, text: bytes, data: ctypes.c_void_p) -> None:
        lines.append(text.decode("utf-8", "replace"))

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, K_QUANTS[word].file_type)
    llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
    try:
        status = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(settings))
    finally:
        # Back to the callback by which llama.cpp's Python package keeps it quiet.
        llama_cpp.llama_log_set(llama_cpp._logger.llama_log_callback, ctypes.c_void_p(0))
    if status:
        said = " ".join("".join(lines).split())[-300:]
        raise LoopaiError(
            tr(
                "{out}: llama.cpp could not quantise it to {word}: {said}",
                out=out,
                word=word,
                said=said or "it did not say why",
            )
        )
