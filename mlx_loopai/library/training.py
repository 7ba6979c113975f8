"""Fine-tuning."""

from __future__ import annotations

from pathlib import Path

from mlx_loopai.config import RunConfig, load_config
from mlx_loopai.runs.documents.run import Summary
from mlx_loopai.runs.listener import Listener, Silent
from mlx_loopai.training.run import train as train_run


def train(
    config: RunConfig | str | Path, out: str | Path, *, resume: bool = False, listener: Listener | None = None
) -> Summary:
    """Train an adapter into `out`/adapter and say how it went. config: a configuration, or a recipe's path.

    resume: go on from the last complete checkpoint in `out`. listener: hears stages and notices; nobody by default.

    Raises: InputError for wrong input; Interrupted after Ctrl-C, with a checkpoint saved; LoopaiError when the run does
    not fit into the memory, or its loss or its general ability is lost.
    """
    return train_run(_configuration(config), Path(out), listener or Silent(), resume)


def _configuration(config: RunConfig | str | Path) -> RunConfig:
    return config if isinstance(config, RunConfig) else load_config(Path(config))
