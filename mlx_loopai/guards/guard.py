"""The protocol of a guard, which holds a model's general ability while it is fine-tuned, and the register of guards.

A new guard is one file of this folder that registers its class, and a class of options in config/guards.py.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.config import LoraOptions, PenaltyOptions
from mlx_loopai.memory.guard_terms import NO_GUARD, GuardTerms
from mlx_loopai.models.micro_batch import MicroBatch

if TYPE_CHECKING:
    from mlx_loopai.models.load import LoadedModel
    from mlx_loopai.runs.listener import Listener

# model -> the penalty on its adapter's update: a scalar, in float32.
Penalty = Callable[[nn.Module], mx.array]
State = TypeVar("State")


@dataclass(frozen=True)
class Material:
    """What a guard measures: the base, whose adapter is on and still does nothing, on general `rows`.

    options: the guard's own. adapter, seed: the adapter's form, and what its start was drawn from.
    """

    base: LoadedModel
    rows: Sequence[MicroBatch]
    options: PenaltyOptions
    adapter: LoraOptions
    seed: int
    listener: Listener


class Guard(Protocol[State]):
    """Holds general ability while a run trains.

    Before training it may measure something on general rows: its state. From that follows a penalty on the adapter's
    update. `token_divergence`: weight of KL(base || adapted) at the answers of training rows, times the strength.
    """

    token_divergence: float = 0.0

    def terms(self, options: Any) -> GuardTerms:
        """The memory it needs, as factors of the model's sizes. options: its own section, such as `penalty`."""
        ...

    def made_by(self, material: Material) -> list[Any]:
        """JSON values on which the state depends besides the base: runs that agree in them share the state."""
        ...

    def measure(self, material: Material) -> State:
        """The state of the base."""
        ...

    def penalty(self, state: State) -> Penalty | None:
        """The penalty that the state asks for."""
        ...

    def place(self, model: nn.Module, state: State) -> None:
        """Put the adapter of `model` where training starts; most guards leave it where it is."""
        ...

    def save(self, state: State, path: Path) -> None:
        """Write the state to `path`, whole or not at all."""
        ...

    def load(self, path: Path) -> State:
        """The state that `save` wrote."""
        ...


class Stateless(Guard[None]):
    """A guard that measures nothing before training."""

    def terms(self, options: PenaltyOptions) -> GuardTerms:
        return NO_GUARD

    def made_by(self, material: Material) -> list[Any]:
        return []

    def measure(self, material: Material) -> None:
        return None

    def penalty(self, state: None) -> Penalty | None:
        return None

    def place(self, model: nn.Module, state: None) -> None:
        pass

    def save(self, state: None, path: Path) -> None:
        pass

    def load(self, path: Path) -> None:
        return None


_GUARDS: dict[str, Guard[Any]] = {"none": Stateless()}
_Class = TypeVar("_Class", bound=type)


def register(kind: str) -> Callable[[_Class], _Class]:
    """Makes a class the guard of `penalty.kind: KIND`."""

    def put(guard: _Class) -> _Class:
        _GUARDS[kind] = guard()
        return guard

    return put


def guard_of(options: PenaltyOptions) -> Guard[Any]:
    """The guard of `penalty.kind`."""
    if options.kind not in _GUARDS:
        for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
            import_module(f"{__package__}.{module.name}")
    return _GUARDS[options.kind]
