"""How much of a base's own ability a harmless change leaves: what no fine-tuned model can be told apart from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.evaluation.retention import Retention, retention
from mlx_loopai.evaluation.suite_run import SuiteResult
from mlx_loopai.evaluation.tasks import Task
from mlx_loopai.experiments.suite_answers import measure_suite, well_known
from mlx_loopai.files import cache_folder
from mlx_loopai.language import tr
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.models.rounding import can_be_rounded, round_weights
from mlx_loopai.runs.listener import Listener


def noise_floor(
    loaded: LoadedModel, encoder: ChatEncoder, tasks: Sequence[Task], base: SuiteResult, listener: Listener
) -> Retention | None:
    """Retention of the base with its weights rounded to 8 bits; None for one whose weights have fewer.

    base: what the base scores on `tasks`, of which those count on which it is well above chance. The answers of the
    rounded base are kept as the base's are. `loaded` has the rounded weights afterwards; only `Base.load` makes it
    the base again.
    """
    if not can_be_rounded(loaded.model):
        return None
    asked, known = well_known(tasks, base)
    with adapter_disabled(loaded.model):
        round_weights(loaded.model)
        rounded = replace(loaded, base_hash=f"{loaded.base_hash} rounded")
        found = measure_suite(rounded, encoder, asked, listener, tr("rounded base"), cache_folder())
    return retention(known.tasks, found.tasks)


def left_by_noise(floor: Retention | None) -> dict[str, Any]:
    """The noise floor as documents hold it (`figures.Kept`)."""
    return {} if floor is None else {"noise_floor": floor.mean, "noise_floor_min": floor.minimum}
