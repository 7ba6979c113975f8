"""The configuration: every option once.

YAML recipes, NAME=VALUE overrides, the command line's flags, the generated help and the saved `resolved.yaml` all come
from the classes in this package.
"""

from __future__ import annotations

from mlx_loopai.config.generation import GenerationOptions, SamplingOptions, generation_options
from mlx_loopai.config.options import (
    UNMEASURED_PENALTIES,
    ForgettingOptions,
    LoraOptions,
    MemoryOptions,
    Optimizer,
    PathOptions,
    PenaltyKind,
    PenaltyOptions,
    PhaseOptions,
    ReplayOptions,
    RunConfig,
    SelectionOptions,
    SourceOptions,
    TrainOptions,
    TrainPath,
)
from mlx_loopai.config.reading import flatten, load_config, option_table, validate_config

__all__ = [
    "UNMEASURED_PENALTIES",
    "ForgettingOptions",
    "GenerationOptions",
    "LoraOptions",
    "MemoryOptions",
    "Optimizer",
    "PathOptions",
    "PenaltyKind",
    "PenaltyOptions",
    "PhaseOptions",
    "ReplayOptions",
    "RunConfig",
    "SamplingOptions",
    "SelectionOptions",
    "SourceOptions",
    "TrainOptions",
    "TrainPath",
    "flatten",
    "generation_options",
    "load_config",
    "option_table",
    "validate_config",
]
