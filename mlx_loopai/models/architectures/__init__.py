"""The architectures that are supported, in one table: adding one is a file here and a row below."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.architectures.architecture import (
    Activation,
    Architecture,
    Block,
    DeltaHeads,
    Experts,
    Kind,
    Layout,
    Linear,
)
from mlx_loopai.models.architectures.exaone4 import EXAONE4
from mlx_loopai.models.architectures.gemma3_text import GEMMA3_TEXT
from mlx_loopai.models.architectures.gpt_neox import GPT_NEOX
from mlx_loopai.models.architectures.llama import LLAMA
from mlx_loopai.models.architectures.mistral import MISTRAL
from mlx_loopai.models.architectures.qwen2 import QWEN2
from mlx_loopai.models.architectures.qwen3 import QWEN3
from mlx_loopai.models.architectures.qwen3_5 import QWEN3_5
from mlx_loopai.models.architectures.qwen3_5_moe import QWEN3_5_MOE
from mlx_loopai.models.architectures.qwen3_moe import QWEN3_MOE
from mlx_loopai.models.architectures.vision_language import as_text_model, family_of

__all__ = [
    "ARCHITECTURES",
    "Activation",
    "Architecture",
    "Block",
    "DeltaHeads",
    "Experts",
    "Kind",
    "Layout",
    "Linear",
    "architecture_of",
    "not_supported",
    "text_part",
]

_TABLE = (QWEN2, QWEN3, LLAMA, MISTRAL, GPT_NEOX, QWEN3_5, QWEN3_MOE, QWEN3_5_MOE, EXAONE4, GEMMA3_TEXT)
ARCHITECTURES = {each.model_type: each for each in _TABLE}
# Of a text model alone, and of a multimodal one that has it as a part.
_OTHER_NAMES = {name: each for each in _TABLE for name in (each.text_type, *each.wrappers) if name}
# Of a multimodal configuration, what is not a setting of its text model.
_OTHER_PARTS = ("text_config", "vision_config", "audio_config", "architectures")


def text_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the text model in `config`, under our own name for it; `config` where it is nothing else.

    A multimodal configuration has it under `text_config`, and beside it what both parts share, such as the token ids.
    """
    inner = config.get("text_config")
    shared = {key: value for key, value in config.items() if key not in _OTHER_PARTS}
    found = {**shared, **inner} if isinstance(inner, Mapping) else dict(config)
    model_type = found.get("model_type")
    family = family_of(model_type)
    if family is not None:
        found = as_text_model(found, family)
    if isinstance(model_type, str) and model_type in _OTHER_NAMES:
        found["model_type"] = _OTHER_NAMES[model_type].model_type
    return found


def architecture_of(model_type: object, where: str) -> Architecture:
    """The architecture that config.json calls `model_type`. Raises: InputError for one that nobody here supports."""
    found = (ARCHITECTURES | _OTHER_NAMES).get(model_type) if isinstance(model_type, str) else None
    if found is not None:
        return found
    raise not_supported(model_type, ARCHITECTURES, where)


def not_supported(name: object, known: Iterable[str], where: str) -> InputError:
    """The error for an architecture `name` that is not among `known`."""
    shown = repr(name)[:80]
    return InputError(
        tr(
            "{where}: the architecture {shown} is not supported; supported are {known}",
            where=where,
            shown=shown,
            known=", ".join(sorted(known)),
        )
    )
