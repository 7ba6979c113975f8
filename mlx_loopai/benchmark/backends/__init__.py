"""The programs that race, each behind the protocol `Side`; each module is imported in a process of its own only.

Every module has `open_side(model, adapter_folder, backend)`, which returns a `Side`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mlx_loopai.benchmark.cases import CaseRows, TrainCase
from mlx_loopai.benchmark.race_results import StepClock
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.errors import InputError, LoopaiError, install_command
from mlx_loopai.language import tr

# mlx-loopai as `train` runs it on this machine, and with the compiled step that a GPU runs.
OWN, OWN_COMPILED = "mlx-loopai", "mlx-loopai-compiled"
_MODULES = {
    OWN: "own",
    OWN_COMPILED: "own",
    "mlx-lm": "mlxlm",
    "torch-cpu": "torch_peft",
    "torch-mps": "torch_peft",
}
BACKENDS = tuple(_MODULES)


class Side(Protocol):
    """One program with a model loaded in float32."""

    memory: str  # how its peak is measured
    versions: dict[str, str]

    def weights_bytes(self) -> int:
        """Bytes of the model and its adapter."""

    def reset_peak(self) -> None:
        """Begin to count `peak_bytes` from here."""

    def peak_bytes(self) -> int:
        """The most memory held since `reset_peak`, above what was held then."""

    def loss(self, rows: Sequence[TokenRow]) -> float:
        """Nats per supervised token by the program's own training loss."""

    def train(self, case: TrainCase, rows: CaseRows, clock: StepClock) -> None:
        """Run the case's steps, each between `clock.start` and `clock.stop`."""

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter in mlx-lm's layout."""

    def generate(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
        """Greedy answers to prompts that run together: token ids without the end."""


def open_side(backend: str, model: Path, adapter: Path | None) -> Side:
    """The program called `backend` with `model` loaded, and an adapter to train when given.

    Raises: InputError for an unknown name; LoopaiError when the program is not installed.
    """
    if backend not in BACKENDS:
        raise InputError(
            tr("`backends` {backend}: unknown; there are {backends}", backend=backend, backends=", ".join(BACKENDS))
        )
    try:
        module = importlib.import_module(f"{__name__}.{_MODULES[backend]}")
        side: Side = module.open_side(model, adapter, backend)
    except ImportError as error:
        missing = error.name or "a package"
        raise LoopaiError(
            tr(
                "{backend}: {missing} is not installed; {install}",
                backend=backend,
                missing=missing,
                install=install_command("bench"),
            )
        ) from None
    return side
