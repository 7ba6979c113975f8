"""The optimizers of `train.optimizer`, from mlx.optimizers."""

from __future__ import annotations

from collections.abc import Callable

import mlx.optimizers as optimizers

from mlx_loopai.config import TrainOptions

_BUILDERS: dict[str, Callable[[float, float], optimizers.Optimizer]] = {
    "adamw": lambda rate, decay: optimizers.AdamW(rate, weight_decay=decay),
    "adam": lambda rate, _: optimizers.Adam(rate),
    "sgd": lambda rate, decay: optimizers.SGD(rate, weight_decay=decay),
    "lion": lambda rate, decay: optimizers.Lion(rate, weight_decay=decay),
    # The run's schedule decides the rate, not Adafactor's own.
    "adafactor": lambda rate, decay: optimizers.Adafactor(
        rate, weight_decay=decay, relative_step=False, scale_parameter=False
    ),
    "muon": lambda rate, decay: optimizers.Muon(rate, weight_decay=decay),
}


def build_optimizer(options: TrainOptions) -> optimizers.Optimizer:
    """The optimizer of `options`, still without a state."""
    return _BUILDERS[options.optimizer](options.learning_rate, options.weight_decay)
