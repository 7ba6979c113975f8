"""The optimizers of `train.optimizer`: those of mlx.optimizers, or with `train.moments: 8-bit` our own 8-bit Adam."""

from __future__ import annotations

from collections.abc import Callable

import mlx.optimizers as optimizers

from mlx_loopai.config import TrainOptions
from mlx_loopai.training.eight_bit import EightBitAdam, EightBitAdamW

_BUILDERS: dict[str, Callable[[TrainOptions], optimizers.Optimizer]] = {
    "adamw": lambda train: (optimizers.AdamW if train.moments == "fp32" else EightBitAdamW)(
        train.learning_rate, weight_decay=train.weight_decay, bias_correction=train.bias_correction
    ),
    "adam": lambda train: (optimizers.Adam if train.moments == "fp32" else EightBitAdam)(
        train.learning_rate, bias_correction=train.bias_correction
    ),
    "sgd": lambda train: optimizers.SGD(train.learning_rate, weight_decay=train.weight_decay),
    "lion": lambda train: optimizers.Lion(train.learning_rate, weight_decay=train.weight_decay),
    # The run's schedule decides the rate, not Adafactor's own.
    "adafactor": lambda train: optimizers.Adafactor(
        train.learning_rate, weight_decay=train.weight_decay, relative_step=False, scale_parameter=False
    ),
    "muon": lambda train: optimizers.Muon(train.learning_rate, weight_decay=train.weight_decay),
}


def build_optimizer(options: TrainOptions) -> optimizers.Optimizer:
    """The optimizer of `options`, still without a state."""
    return _BUILDERS[options.optimizer](options)
