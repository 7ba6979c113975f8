"""The adapter as it was at a checkpoint of a finished run: to compare it with the last one, or to use it instead."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

from mlx_loopai.errors import InputError
from mlx_loopai.files import whole_folder
from mlx_loopai.language import tr
from mlx_loopai.models.adapters import WEIGHTS_FILE, read_adapter_config, save_arrays, write_settings
from mlx_loopai.models.model_card import model_card
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training.checkpoint import ARRAYS_FILE, complete_checkpoints, require_intact

_ADAPTER = "adapter."
# Measured of the adapter at the run's end, not of this one.
_OF_THE_LAST = ("figures", "retention")


def write_checkpoint_adapter(run: Path, step: int | None, out: Path) -> Path:
    """Write the adapter of the run's checkpoint after `step` to the folder `out`. Returns: the checkpoint.

    step: None for the newest checkpoint before the last.

    Raises: InputError when the run has no such checkpoint, wrote no adapter, or the checkpoint is damaged.
    """
    directory = RunDirectory(run)
    config = read_adapter_config(directory.adapter)
    checkpoint = _chosen(directory, step)
    require_intact(checkpoint)
    arrays = mx.load(str(checkpoint / ARRAYS_FILE))
    assert isinstance(arrays, dict)
    learnt = {name.removeprefix(_ADAPTER): array for name, array in arrays.items() if name.startswith(_ADAPTER)}
    notes = {key: value for key, value in (config.get("mlx_loopai") or {}).items() if key not in _OF_THE_LAST}
    config = config | {"mlx_loopai": notes}
    with whole_folder(out) as temporary:
        save_arrays(temporary / WEIGHTS_FILE, learnt, {"format": "mlx"})
        write_settings(temporary, config, model_card(config))
    return checkpoint


def _chosen(directory: RunDirectory, step: int | None) -> Path:
    found = complete_checkpoints(directory.checkpoints)
    earlier = found[-2:-1] if step is None else [path for path in found if path.name == f"step-{step:06d}"]
    if earlier:
        return earlier[0]
    raise InputError(
        tr(
            "{run}: no such checkpoint; it has {known}",
            run=directory.path,
            known=", ".join(path.name for path in found) or tr("none"),
        ),
        "step",
    )
