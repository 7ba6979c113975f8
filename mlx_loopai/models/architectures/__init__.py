"""The architectures that are supported, in one table: adding one is a file here and a row below."""

from __future__ import annotations

from collections.abc import Iterable

from mlx_loopai.errors import InputError
from mlx_loopai.models.architectures.architecture import Architecture, Block, Linear
from mlx_loopai.models.architectures.gpt_neox import GPT_NEOX
from mlx_loopai.models.architectures.llama import LLAMA
from mlx_loopai.models.architectures.mistral import MISTRAL
from mlx_loopai.models.architectures.qwen2 import QWEN2
from mlx_loopai.models.architectures.qwen3 import QWEN3

__all__ = ["ARCHITECTURES", "Architecture", "Block", "Linear", "architecture_of", "not_supported"]

ARCHITECTURES = {each.model_type: each for each in (QWEN2, QWEN3, LLAMA, MISTRAL, GPT_NEOX)}


def architecture_of(model_type: object, where: str) -> Architecture:
    """The architecture that config.json calls `model_type`. Raises: InputError for one that nobody here supports."""
    if isinstance(model_type, str) and model_type in ARCHITECTURES:
        return ARCHITECTURES[model_type]
    raise not_supported(model_type, ARCHITECTURES, where)


def not_supported(name: object, known: Iterable[str], where: str) -> InputError:
    """The error for an architecture `name` that is not among `known`."""
    shown = repr(name)[:80]
    return InputError(f"{where}: the architecture {shown} is not supported; supported are {', '.join(sorted(known))}")
