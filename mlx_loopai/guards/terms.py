"""What the guards of a run hand to the memory plan."""

from __future__ import annotations

from mlx_loopai.config import PenaltyOptions, ReplayOptions
from mlx_loopai.guards.guard import guard_of
from mlx_loopai.guards.rehearsal import SelfRehearsal
from mlx_loopai.memory.guard_terms import GuardTerms


def memory_terms(penalty: PenaltyOptions, replay: ReplayOptions) -> GuardTerms:
    """What the guard of `penalty` and rehearsal keep and work on together."""
    return guard_of(penalty).terms(penalty) + SelfRehearsal.terms(replay)
