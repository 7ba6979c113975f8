"""What one key of config.json means to each program, and the groups of models that read the same keys."""

from __future__ import annotations

from dataclasses import dataclass

LLAMA_LIKE = ("qwen2", "qwen3", "llama", "mistral")
EXPERTS = ("qwen3_moe", "qwen3_5_moe")
DELTA = ("qwen3_5", "qwen3_5_moe")
WINDOWED = ("exaone4", "gemma3_text")
# Every architecture of models/architectures.
KINDS = (*LLAMA_LIKE, "gpt_neox", "qwen3_moe", *DELTA, *WINDOWED)
# All with an RMSNorm.
RMS = tuple(kind for kind in KINDS if kind != "gpt_neox")
# Those whose rotary settings stand in `rope_theta` and `rope_scaling`, and those of them that can be scaled.
FLAT_ROPE = (*LLAMA_LIKE, "qwen3_moe", "exaone4")
SCALED = (*LLAMA_LIKE, *WINDOWED)


@dataclass(frozen=True)
class Key:
    """One key, such as `rope_scaling.factor` inside an object, and what each program does with it for models `of`.

    A key that models treat differently has several entries.
    """

    name: str
    of: tuple[str, ...]
    mlx_lm: str
    transformers: str
    gguf: str
    here: str
