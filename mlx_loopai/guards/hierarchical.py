"""`penalty.kind: hierarchical`: importance by the path integral of a training run on general rows, corrected."""

from __future__ import annotations

from mlx_loopai.guards.guard import register
from mlx_loopai.guards.path_integral import PathForm, PathGuard


@register("hierarchical")
class Hierarchical(PathGuard):
    """How much the movement of every weight contributed to the loss of a short training run on general rows.

    Corrected against the released method: the integral is over dL/dDW itself, the damping is relative to the layer's
    own DW^2, layers weigh by their normalised norms, and the penalty pulls towards the base.

    Source: synaptic intelligence (arXiv 1703.04200) on the merged update of LoRA, arXiv 2501.13669; `hlora` is that
    paper's method as released.
    """

    form = PathForm(
        true_gradient=True,
        damping=0.1,
        relative=True,
        clamp_each_step=False,
        each_epoch=False,
        softmax_scale=None,
        anchor_at_base=True,
    )
