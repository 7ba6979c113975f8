"""Released models that a first fine-tune may start from: where they are, how large a download is, and the licence."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_loopai.models.known_shapes import SUFFIX, known_config
from mlx_loopai.models.shape import ModelShape

# Released in half precision.
_WEIGHT_BYTES = 2


@dataclass(frozen=True)
class Released:
    """`sizes` is the name in `known_shapes` whose sizes the model has; `licence` its SPDX name, as its card says."""

    hub_id: str
    sizes: str
    licence: str = "Apache-2.0"

    @property
    def shape_name(self) -> str:
        """What a plan takes in place of a download."""
        return self.sizes + SUFFIX

    @property
    def download_bytes(self) -> int:
        """Bytes of the weights, nearly all of the download."""
        return _WEIGHT_BYTES * ModelShape.from_config(known_config(self.shape_name) or {}).parameters


# The smallest first. Qwen2.5-3B is left out: its licence forbids commercial use.
RELEASED = (
    Released("Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5-0.5B"),
    Released("Qwen/Qwen2.5-1.5B-Instruct", "Qwen2.5-1.5B"),
    Released("Qwen/Qwen3-4B-Instruct-2507", "Qwen3-4B"),
    Released("Qwen/Qwen2.5-7B-Instruct", "Qwen2.5-7B"),
    Released("Qwen/Qwen2.5-14B-Instruct", "Qwen2.5-14B"),
)


def licence_of(model: str) -> str | None:
    """The SPDX name of a model's licence: of the embedded one or a released one; None for any other."""
    from mlx_loopai.models.load import NANO  # a table of names need not wait for it

    if model == NANO:
        return "Apache-2.0"
    return next((one.licence for one in RELEASED if one.hub_id.lower() == model.lower()), None)
