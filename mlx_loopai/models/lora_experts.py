"""Low-rank adapters on the stacked matrices of experts, for those who ask for them; each expert has its own factors.

Shapes and names are mlx-lm's: `lora_a` (E, R, D_in) and `lora_b` (E, D_out, R), float32 whatever the base's dtype.
"""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from mlx_loopai.models.updated_linear import UpdatedLinear

EXPERT_CLASSES = (SwitchLinear, QuantizedSwitchLinear)


class LoRAExperts(UpdatedLinear):
    """Frozen matrices of E experts with a low-rank update each. The router that chooses among them stays as it is."""

    def __init__(self, linear: nn.Module, rank: int, scale: float) -> None:
        super().__init__(linear)
        self.scale = scale
        n_out, n_in = self.sizes
        bound = 1 / math.sqrt(n_in)
        self.lora_a = mx.random.uniform(-bound, bound, (linear.num_experts, rank, n_in))
        self.lora_b = mx.zeros((linear.num_experts, n_out, rank))

    @property
    def sizes(self) -> tuple[int, int]:
        """(D_out, D_in) of one expert."""
        return self.linear.output_dims, self.linear.input_dims

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """x (..., 1, D_in) for the experts `indices` -> (..., 1, D_out), in the dtype of `x`."""
        y = self.linear(x, indices, sorted_indices=sorted_indices)
        if not self.enabled:
            return y
        down, up = self.lora_a.astype(x.dtype), (self.scale * self.lora_b).astype(x.dtype)
        low = mx.gather_mm(x, down.swapaxes(-1, -2), rhs_indices=indices, sorted_indices=sorted_indices)
        return y + mx.gather_mm(low, up.swapaxes(-1, -2), rhs_indices=indices, sorted_indices=sorted_indices)

    def update_matrix(self) -> mx.array:
        """DW (E, D_out, D_in), float32."""
        return self.scale * (self.lora_b @ self.lora_a)

    def scale_update(self, factor: float) -> None:
        self.lora_b = self.lora_b * factor


def expert_modules(model: nn.Module) -> dict[str, LoRAExperts]:
    """Every adapter on experts of `model` by dotted name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRAExperts)}
