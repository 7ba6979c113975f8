"""`penalty.kind: kl`: on training rows, stay near the base in everything but the token that is taught."""

from __future__ import annotations

from mlx_loopai.config import PenaltyOptions
from mlx_loopai.guards.guard import Stateless, register
from mlx_loopai.memory.guard_terms import GuardTerms


@register("kl")
class Divergence(Stateless):
    """KL(base || adapted) at every answer token, with the token itself left out of both distributions.

    The step computes it with the loss (models/divergence.py), from the base's own forward pass.

    Source: KL to the base, as in arXiv 2509.04259; the removed target is that of arXiv 2605.29498.
    """

    token_divergence = 1.0

    def terms(self, options: PenaltyOptions) -> GuardTerms:
        return GuardTerms(diverges=True)
