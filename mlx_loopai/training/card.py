"""What a run writes on its adapter's model card: the base, the recipe, and what was measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mlx_loopai.config import RunConfig
from mlx_loopai.runs.documents.figures import Kept
from mlx_loopai.training.monitor import Reading

# Data files and phases stay out: a card is published, and their paths are the owner's.
_SECTIONS = ("train", "penalty", "replay", "selection", "preference")


def card_notes(config: RunConfig, losses: dict[str, float | None], reading: Reading | None) -> dict[str, Any]:
    """The notes that `save_adapter` keeps. `losses`: losses and what held-out judged answers say, by the names of
    `Summary`; None where nothing was measured.

    `retention` is there when the run watched general ability; `reading` is of the model as it is saved.
    """
    base = config.model
    notes: dict[str, Any] = {
        "system_prompt": config.system_prompt,
        "base": Path(base).name if Path(base).exists() else base,
        "recipe": recipe(config),
        "figures": {name: value for name, value in losses.items() if value is not None},
    }
    if reading is None:
        return notes
    figures = {
        "kept: exp(-KL to the base) a token, 1 for the base": math.exp(-reading.divergence),
        f"the same for {reading.furthest}, the kind of answers that moved furthest": math.exp(
            -reading.furthest_divergence
        ),
    }
    figures |= {f"nats a token of general answers, {kind}": nll for kind, nll in reading.nll.items()}
    figures |= {f"the same before, {kind}": nll for kind, nll in reading.base_nll.items()}
    return notes | {"retention": figures}


def retention_figures(measured_on: str, found: Kept) -> dict[str, float | str]:
    """The measured figures of an adapter for `note_retention`, by label; empty where retention was not measured."""
    if found.retention is None or found.retention_min is None or found.retention_interval is None:
        return {}
    low, high = found.retention_interval
    figures: dict[str, float | str] = {
        "measured on": measured_on,
        "retention (GR), 1 for the base": found.retention,
        "its 95 % interval": f"{low:.3f} to {high:.3f}",
        "worst probe": found.retention_min,
    }
    if found.noise_floor is not None:
        figures["retention of the base rounded to 8 bits"] = found.noise_floor
    return figures if found.gain is None else figures | {"gain (DG), 1 for plain LoRA": found.gain}


def recipe(config: RunConfig) -> dict[str, Any]:
    """The settings of training that are not the defaults, by their dotted names."""
    chosen = config.model_dump(mode="json", include=set(_SECTIONS), exclude_defaults=True)
    return {f"{section}.{name}": value for section, options in chosen.items() for name, value in options.items()}
