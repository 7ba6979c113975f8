"""The configuration: every option once.

YAML recipes, NAME=VALUE overrides, the command line's flags, the generated help and the saved `resolved.yaml` all come
from the classes in this package.
"""

from __future__ import annotations

from mlx_loopai.config.generation import GenerationOptions, SamplingOptions, generation_options
from mlx_loopai.config.guards import (
    PENALTIES,
    DivergenceOptions,
    FisherOptions,
    GuardOptions,
    HierarchicalOptions,
    HloraOptions,
    KroneckerOptions,
    MeasuredOptions,
    NoGuardOptions,
    PathIntegralOptions,
    PathOptions,
    PenaltyOptions,
    ReplayOptions,
    SketchOptions,
)
from mlx_loopai.config.learning import LoraOptions, Optimizer, TrainOptions, TrainPath
from mlx_loopai.config.options import (
    ForgettingOptions,
    MemoryOptions,
    PhaseOptions,
    PhaseSettings,
    RunConfig,
    SelectionOptions,
)
from mlx_loopai.config.preference import PreferenceOptions
from mlx_loopai.config.reading import flatten, load_config, option_table, validate_config
from mlx_loopai.config.reward import RewardOptions
from mlx_loopai.config.sources import SourceKind, SourceOptions, VisionOptions

__all__ = [
    "PENALTIES",
    "DivergenceOptions",
    "FisherOptions",
    "ForgettingOptions",
    "GenerationOptions",
    "GuardOptions",
    "HierarchicalOptions",
    "HloraOptions",
    "KroneckerOptions",
    "LoraOptions",
    "MeasuredOptions",
    "MemoryOptions",
    "NoGuardOptions",
    "Optimizer",
    "PathIntegralOptions",
    "PathOptions",
    "PenaltyOptions",
    "PhaseOptions",
    "PhaseSettings",
    "PreferenceOptions",
    "ReplayOptions",
    "RewardOptions",
    "RunConfig",
    "SamplingOptions",
    "SelectionOptions",
    "SketchOptions",
    "SourceKind",
    "SourceOptions",
    "TrainOptions",
    "TrainPath",
    "VisionOptions",
    "flatten",
    "generation_options",
    "load_config",
    "option_table",
    "validate_config",
]
