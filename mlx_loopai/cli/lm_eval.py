"""The work of `mlx-loopai evaluate --suite lm-eval:TASKS`: lm-eval's own tasks on a base and on its adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlx_loopai.cli.figures import table
from mlx_loopai.cli.output import progress
from mlx_loopai.language import tr


def lm_eval_document(model: str, adapter: Path | None, suite: str, limit: int | None, quiet: bool) -> dict[str, Any]:
    """The scores of lm-eval's tasks on the base (cached), and on the base with the adapter fused into a folder."""
    import tempfile

    from converters.fuse_folder import fuse
    from converters.writers.target import Target
    from mlx_loopai.evaluation.lm_eval import LmEval, evaluate, kept_scores, report
    from mlx_loopai.models.learnt import find_learnt, is_whole
    from mlx_loopai.models.load import hash_base, resolve_model

    asked = LmEval.of(suite, limit)
    adapter = None if adapter is None else find_learnt(adapter)
    folder = resolve_model(model)
    with progress(None, tr("lm-eval: base"), quiet, ""):
        base = kept_scores(asked, folder, hash_base(folder))
    if adapter is None:
        return report(suite, model, None, base, None)
    with tempfile.TemporaryDirectory() as place, progress(None, tr("lm-eval: tuned"), quiet, ""):
        whole = adapter if is_whole(adapter) else Path(place) / "fused"
        if whole != adapter:
            fuse(adapter, str(folder), whole, Target())
        return report(suite, model, str(adapter), base, evaluate(asked, whole))


def lm_eval_table(document: dict[str, Any]) -> str:
    """The scores as lines for a terminal."""
    tuned = document["tuned"] or {}
    rows = [[tr("task"), tr("metric"), tr("base"), *([tr("tuned")] if tuned else [])]]
    for task, metrics in document["base"].items():
        for name, value in metrics.items():
            after = [f"{tuned[task][name]:.4f}"] if tuned else []
            rows.append([task, name, f"{value:.4f}", *after])
    return "\n".join(table(rows))
