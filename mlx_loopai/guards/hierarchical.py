"""`penalty.kind: hierarchical`: the path integral, corrected so that it measures importance."""

from __future__ import annotations

from mlx_loopai.guards.guard import register
from mlx_loopai.guards.path_integral import PathForm, PathGuard


@register("hierarchical")
class Hierarchical(PathGuard):
    """What a training run on general rows says of every weight.

    The integral is over dL/dDW itself, its damping counts a layer's own DW^2, layers weigh by their normalised norms,
    and the penalty pulls to the base.

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
