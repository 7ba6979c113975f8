"""`penalty.kind: hlora`: the path integral as its authors released it, for comparison."""

from __future__ import annotations

from mlx_loopai.guards.guard import register
from mlx_loopai.guards.path_integral import PathForm, PathGuard


@register("hlora")
class Hlora(PathGuard):
    """The same with raw importance, and the end of the measuring run as the anchor.

    What the released code of the paper was read to do, apart from dropout and from handing AdamW's moments on to the
    domain run. Training goes on with the adapter with which it measured.

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
