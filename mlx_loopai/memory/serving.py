"""The most that a server needs: weights, the conversations that it answers at once, those that it remembers, Python.

Counted, not fitted: an upper estimate, reached only when every conversation fills its context. MLX's store of freed
buffers, which MLX bounds itself, is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlx_loopai.memory.machine import Machine
from mlx_loopai.memory.phases import Answering, answering_bytes
from mlx_loopai.memory.plan import budget_of
from mlx_loopai.memory.predict import PYTHON_BYTES
from mlx_loopai.memory.sizes import StepOptions
from mlx_loopai.models.shape import ModelShape


@dataclass(frozen=True)
class Served:
    """What a server holds. weight_bytes: of the base, its adapters, a draft model and an embedder, as they are loaded.

    compute: dtype of keys, values and activations. rows: conversations answered at once, each with a context of at most
    context_tokens, of which an answer has at most answer_tokens. cache_bytes: kept of conversations that ended.
    """

    weight_bytes: int
    compute: str
    rows: int
    context_tokens: int
    answer_tokens: int
    cache_bytes: int


@dataclass(frozen=True)
class ServingPlan:
    """Bytes of each term, and how many the machine lets a program use."""

    budget_bytes: int
    terms: dict[str, int]

    @property
    def total_bytes(self) -> int:
        return sum(self.terms.values())

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.budget_bytes


def plan_serving(shape: ModelShape, machine: Machine, served: Served) -> ServingPlan:
    """What `served` needs at most on `machine`."""
    answer_tokens = min(served.answer_tokens, served.context_tokens - 1)
    answering = Answering(served.rows, served.context_tokens - answer_tokens, answer_tokens)
    options = StepOptions(compute=served.compute)
    terms = {
        "weights": served.weight_bytes,
        "conversations": answering_bytes(shape, options, machine.backend, answering),
        "prompt_cache": served.cache_bytes,
        "python": PYTHON_BYTES,
    }
    return ServingPlan(budget_of(machine), terms)
