"""What the guards of a run need of memory, for the memory plan."""

from __future__ import annotations

from mlx_loopai.config import PenaltyOptions, ReplayOptions
from mlx_loopai.guards.guard import guard_of
from mlx_loopai.guards.rehearsal import SelfRehearsal
from mlx_loopai.memory.guard_terms import GuardTerms


def memory_terms(penalty: PenaltyOptions, replay: ReplayOptions) -> GuardTerms:
    """The memory that the guard of `penalty` and rehearsal need together, as factors of the model's sizes."""
    # The largest squares come first: a share of their sum needs at most that share of all directions.
    held = GuardTerms(directions=penalty.held_energy)
    return guard_of(penalty).terms(penalty) + SelfRehearsal.terms(replay) + held
