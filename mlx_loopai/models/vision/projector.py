"""The projector from an added image encoder's features to a text model's embeddings: two layers, trained by a run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

# The module's name in a model, and what its tensors' names begin with in an adapter.
PROJECTOR = "vision_projector"
# The root mean square of what both layers give before they are taught.
_FIRST_SIZE = 0.2


class Projector(nn.Module):
    """Features (N, W) -> (N, D): a norm, a layer, GELU, a layer. Its parameters stay float32, as an adapter's do.

    scale: about the root mean square of what it gives before it is taught: that of the text model's word vectors.

    Source: LLaVA-1.5 (arXiv 2310.03744), section 3.2. Ours are `scale`, the norm, as features of encoders differ too,
    and the first layer's form W x / sqrt(width) with W of about 1. Adam moves every number of W by the learning rate,
    and a wide layer's output by width times that where neighbouring features are alike, as pixels are: in the usual
    form the rate that suits an adapter is far too high for it (Tensor Programs V, arXiv 2203.03466, section 3).
    """

    def __init__(self, width: int, out: int, scale: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, affine=False)
        self.into = nn.Linear(width, out)
        self.into.weight = mx.random.uniform(-1.0, 1.0, (out, width))
        self.out = nn.Linear(out, out)
        self._scale = scale / _FIRST_SIZE
        self._base: list[tuple[str, mx.array]] = []

    def __call__(self, features: mx.array) -> mx.array:
        normed = self.norm(features.astype(mx.float32)) / math.sqrt(features.shape[-1])
        return self._scale * self.out(nn.gelu_approx(self.into(normed)))

    def keep(self) -> None:
        """Remember the parameters as those of the base."""
        self._base = tree_flatten(self.parameters())

    def restore(self) -> None:
        """The base's parameters again, frozen."""
        self.update(tree_unflatten(self._base))
        self.freeze()

    @contextmanager
    def untaught(self) -> Iterator[None]:
        """Within it the parameters are the base's."""
        taught = self.parameters()
        self.update(tree_unflatten(self._base))
        try:
            yield
        finally:
            self.update(taught)


def put_projector(model: nn.Module, width: int, scale: float, weights: dict[str, mx.array]) -> None:
    """Give `model` a frozen projector with `weights`. Raises: ValueError, as MLX does, for weights that do not fit."""
    out = weights["out.bias"].size if "out.bias" in weights else 0
    projector = Projector(width, out, scale)
    projector.load_weights([(name, array.astype(mx.float32)) for name, array in weights.items()], strict=True)
    mx.eval(projector.parameters())
    projector.keep()
    projector.freeze()
    setattr(model, PROJECTOR, projector)


def projector_of(model: nn.Module) -> Projector | None:
    """The projector of `model`; None for a model of text alone, or one whose tower gives what it reads."""
    found = model.get(PROJECTOR)
    return found if isinstance(found, Projector) else None


def teach_projector(model: nn.Module, why: str) -> None:
    """Let training, or an adapter, change the projector of `model`. Raises: InputError, begun by `why`, without one."""
    projector = projector_of(model)
    if projector is None:
        raise InputError(
            tr(
                "{why}, and this model has none: `mlx-loopai vision add` gives a text model an encoder and a projector",
                why=why,
            )
        )
    projector.unfreeze()


def projector_arrays(model: nn.Module) -> dict[str, mx.array]:
    """The projector's arrays by their names in an adapter where it is being taught, or was; else none."""
    projector = projector_of(model)
    if projector is None or not tree_flatten(projector.trainable_parameters()):
        return {}
    return {f"{PROJECTOR}.{name}": array for name, array in tree_flatten(projector.parameters())}
