"""The memory that a guard needs, as factors that the memory plan multiplies with a model's sizes."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class GuardTerms:
    """What a guard keeps in memory while a run trains, and what it needs for measuring and in a step.

    adapters: float32 copies of the adapter, such as a penalty's gradient. vectors: float32 numbers for every input and
    every output of an adapted layer. weights: float32 numbers for every weight of the adapted layers. largest_layers:
    float32 copies of the model's largest layer while the penalty is computed. activations: stored rows of every input
    that adapted layers read, in the model's precision. directions: a float32 number for every input and every output of
    an adapted layer, for this share of its rank. observes: before training, general rows are run with the inputs
    and gradients of all adapted layers alive. diverges: a step computes KL to the base at every target.
    diverges_on_answers: only at the answers of rehearsal rows, which are in micro-batches of their own.
    """

    adapters: int = 0
    vectors: int = 0
    weights: int = 0
    largest_layers: int = 0
    activations: int = 0
    directions: float = 0.0
    observes: bool = False
    diverges: bool = False
    diverges_on_answers: bool = False

    def __add__(self, other: GuardTerms) -> GuardTerms:
        """What two guards of one run need together."""
        found = {}
        for field in fields(self):
            one, two = getattr(self, field.name), getattr(other, field.name)
            found[field.name] = (one or two) if isinstance(one, bool) else one + two
        return GuardTerms(**found)


NO_GUARD = GuardTerms()
