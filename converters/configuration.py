"""Completes and checks a Hugging Face config.json: every field that the converters need is there afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converters.names import architecture_of
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.configuration import complete_configuration, refuse_foreign_quantization


def from_hugging_face(raw: Mapping[str, Any], has_head: bool, where: str) -> dict[str, Any]:
    """A complete configuration from the content of a config.json.

    `has_head`: the file holds a weight of the head that is not the embedding's copy. Such a head is kept, whatever
    `tie_word_embeddings` says: transformers ties only what a file does not hold.

    Raises:
        InputError: unsupported architecture, quantised weights, or a field that is missing, absurd, or that mlx-lm
            computes differently.
    """
    architecture = architecture_of(raw.get("model_type"), where)
    if raw.get("quantization"):
        raise InputError(
            tr(
                "{where}: the weights are already quantised (quantization); give the original fp32, bf16 or fp16 "
                "checkpoint",
                where=where,
            )
        )
    refuse_foreign_quantization(raw, where)
    config = complete_configuration(raw, where)
    tie = config.get("tie_word_embeddings")
    # Where mlx-lm's model always has a head of its own, the reader gives it the embedding's rows.
    tied = not architecture.always_own_head and not has_head and (tie is None or bool(tie))
    config["tie_word_embeddings"] = tied
    return config
