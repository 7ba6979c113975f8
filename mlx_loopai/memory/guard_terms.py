"""What guards hand to the memory plan: factors that it multiplies with a model's sizes."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class GuardTerms:
    """What a guard keeps while a run trains, and what it needs before and beside.

    adapters: adapters' worth of float32, such as a penalty's own gradient. vectors: float32 numbers for every input and
    every output of an adapted layer. weights: float32 numbers for every weight of the adapted layers. largest_layers:
    float32 copies of the model's largest layer while the penalty runs. activations: rows kept of every input that
    adapted layers read, in the model's precision. observes: general rows are run before training, with the inputs and
    gradients of all adapted layers alive. diverges: a step computes the distance from the base at every target;
    diverges_on_answers: at the answers of rehearsal rows only, which are in micro-batches of their own.
    """

    adapters: int = 0
    vectors: int = 0
    weights: int = 0
    largest_layers: int = 0
    activations: int = 0
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
