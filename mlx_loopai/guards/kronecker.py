"""`penalty.kind: kronecker`: two vectors a layer describe which weights general data depends on."""

from __future__ import annotations

import mlx.core as mx

from mlx_loopai.config import PenaltyOptions
from mlx_loopai.guards.guard import Penalty, register
from mlx_loopai.guards.importance import Importance, ImportanceGuard
from mlx_loopai.guards.measured import over_layers
from mlx_loopai.memory.guard_terms import GuardTerms
from mlx_loopai.models.lora import LoRALinear
from mlx_loopai.models.updated_linear import UpdatedLinear


@register("kronecker")
class Kronecker(ImportanceGuard):
    """Importance u v^T of every layer, from one backward pass over general rows."""

    def terms(self, options: PenaltyOptions) -> GuardTerms:
        return GuardTerms(adapters=1, vectors=1, observes=True)

    def penalty(self, state: Importance) -> Penalty:
        return kronecker_penalty(state)


def kronecker_penalty(importance: Importance) -> Penalty:
    """The function model -> sum_l c_l sum_ij u_i v_j DW_ij^2, exact and without a dense matrix.

    With DW = s (A B)^T for A (D_in, R) and B (R, D_out), the inner sum is
    s^2 sum((A^T diag(v) A) * (B diag(u) B^T)): O((D_in + D_out) R^2) a layer. For a whole update (`train.method: full`)
    the sum is computed directly. The penalty is 0 at the base, where DW = 0.

    Source: element-wise regularisation of arXiv 2501.13669 (section 4.2), with rank-1 importance.
    """

    def term(name: str, layer: UpdatedLinear) -> mx.array:
        return weighted_square(layer, importance.output[name], importance.input[name])

    return over_layers(importance.coefficients, term)


def weighted_square(layer: UpdatedLinear, output: mx.array, input_: mx.array) -> mx.array:
    """sum_ij u_i v_j DW_ij^2 of one layer; `output` u (D_out,), `input_` v (D_in,)."""
    if not isinstance(layer, LoRALinear):
        return (output[:, None] * input_ * mx.square(layer.update_matrix())).sum()
    a, b = layer.lora_a, layer.lora_b
    inner = (a * input_[:, None]).T @ a
    outer = (b * output) @ b.T
    return layer.scale**2 * (inner * outer).sum()
