"""`penalty.kind: hlora`: the path integral as its authors released it, for comparison."""

from __future__ import annotations

from mlx_loopai.guards.guard import register
from mlx_loopai.guards.path_integral import PathForm, PathGuard


@register("hlora")
class Hlora(PathGuard):
    """The path integral with raw importance, and with the end of the measuring run as the anchor.

    It does what the paper's released code does, except that it has no dropout and does not hand AdamW's moments on to
    the domain run. Training continues with the adapter of the measuring run.

    Source: arXiv 2501.13669.
    """

    form = PathForm(
        true_gradient=False,
        damping=1e-9,
        relative=False,
        clamp_each_step=True,
        each_epoch=True,
        softmax_scale=1e-8,
        anchor_at_base=False,
    )
