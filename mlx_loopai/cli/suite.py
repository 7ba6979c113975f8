"""What `mlx-loopai evaluate --suite` does: a suite run on a base and on its adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_loopai.cli.output import progress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from mlx_loopai.cli.output import Progress
    from mlx_loopai.data.tokens import ChatEncoder
    from mlx_loopai.evaluation.suite import Task
    from mlx_loopai.evaluation.suite_run import SuiteRun
    from mlx_loopai.generation.session import Session


def suite_document(model: str, adapter: Path | None, suite: str, limit: int | None, quiet: bool) -> dict[str, Any]:
    """The report of `suite` on the base, from the cache when it is there, and on the adapter when one is given."""
    from mlx_loopai.evaluation.suite import read_suite
    from mlx_loopai.evaluation.suite_run import report
    from mlx_loopai.generation.session import open_session

    tasks = read_suite(suite, limit)
    session = open_session(model, adapter)
    base = _base(session, tasks, quiet)
    tuned = _tuned(session, tasks, quiet) if adapter is not None else None
    return {"suite": suite, **report(model, str(adapter) if adapter else None, tasks, base, tuned)}


def lm_eval_document(model: str, adapter: Path | None, suite: str, limit: int | None, quiet: bool) -> dict[str, Any]:
    """The scores of lm-eval's tasks on the base, kept, and on the base with the adapter fused into a folder."""
    import tempfile

    from converters.fuse_folder import fuse
    from converters.writers.target import Target
    from mlx_loopai.evaluation.lm_eval import LmEval, evaluate, kept_scores, report
    from mlx_loopai.models.load import hash_base, resolve_model

    asked = LmEval.of(suite, limit)
    folder = resolve_model(model)
    with progress(None, "lm-eval: base", quiet, ""):
        base = kept_scores(asked, folder, hash_base(folder))
    if adapter is None:
        return report(suite, model, None, base, None)
    with tempfile.TemporaryDirectory() as place, progress(None, "lm-eval: tuned", quiet, ""):
        fused = Path(place) / "fused"
        fuse(adapter, str(folder), fused, Target())
        return report(suite, model, str(adapter), base, evaluate(asked, fused))


def lm_eval_table(document: dict[str, Any]) -> str:
    """The scores as lines for a terminal."""
    tuned = document["tuned"] or {}
    lines = [f"{'task':<24} {'metric':<24} {'base':>9}" + (f" {'tuned':>9}" if tuned else "")]
    for task, metrics in document["base"].items():
        for name, value in metrics.items():
            after = f" {tuned[task][name]:>9.4f}" if tuned else ""
            lines.append(f"{task:<24} {name:<24} {value:>9.4f}{after}")
    return "\n".join(lines)


def _base(session: Session, tasks: Sequence[Task], quiet: bool) -> SuiteRun:
    from mlx_loopai.evaluation.suite_run import is_kept, kept_run
    from mlx_loopai.files import cache_folder
    from mlx_loopai.models.lora import adapter_disabled

    at = (session.system_prompt, tasks, cache_folder())
    silent = quiet or is_kept(session.loaded, *at)
    with adapter_disabled(session.loaded.model), _items(tasks, "base", silent) as bar:
        return kept_run(session.loaded, _encoder(session), *at, bar.update)


def _tuned(session: Session, tasks: Sequence[Task], quiet: bool) -> SuiteRun:
    from mlx_loopai.evaluation.suite_run import run_suite

    with _items(tasks, "tuned", quiet) as bar:
        return run_suite(session.loaded, _encoder(session), tasks, bar.update)


def _items(tasks: Sequence[Task], label: str, quiet: bool) -> AbstractContextManager[Progress]:
    return progress(sum(len(task.items) for task in tasks), label, quiet, "items")


def _encoder(session: Session) -> ChatEncoder:
    from mlx_loopai.data.tokens import ChatEncoder

    return ChatEncoder(session.loaded.tokenizer, session.system_prompt)


def suite_table(document: dict[str, Any]) -> str:
    """The report as lines for a terminal."""
    tuned = document["tuned"] is not None
    lines = [
        f"{'task':<14} {'n':>4} {'chance':>7} {'base':>6}"
        + (f" {'tuned':>6} {'broken':>6} {'kept':>6} {'right->wrong':>13} {'wrong->right':>13}" if tuned else " broken")
    ]
    for name, probe in document["probes"].items():
        broken = sum((document["tuned"] or document["base"])["broken"][name].values())
        line = f"{name:<14} {probe['n']:>4} {probe['chance']:>7.3f} {probe['base']:>6.3f}"
        line += f" {probe['score']:>6.3f} {broken:>6}" if tuned else f" {broken:>6}"
        if tuned and probe["counted"]:
            line += f" {probe['capped']:>6.3f} {probe['right_to_wrong']:>13} {probe['wrong_to_right']:>13}"
        lines.append(line + ("  (base too near chance: not counted)" if tuned and not probe["counted"] else ""))
    for name, likelihood in document["nll"].items():
        after = f" -> {likelihood['score']:.3f}" if tuned else ""
        lines.append(f"{name:<14} {likelihood['base']:.3f}{after} nats per token")
    if document["retention"] is not None:
        low, high = document["retention_interval"]
        lines += [
            "",
            f"retention   {document['retention']:.3f} (95 % interval {low:.3f} to {high:.3f})",
            f"worst task  {document['retention_min']:.3f}",
        ]
    if document["purity"] is not None:
        lines.append(f"purity      {document['purity']:.3f} (answers to Korean questions)")
    return "\n".join(lines)
