"""Runs lm-eval's tasks through `mlx_lm evaluate`, in a process of its own, and keeps the results by model.

`mlx_lm evaluate` takes a model's folder and no adapter, so a tuned model is fused first.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlx_loopai.errors import InputError, LoopaiError, install_command
from mlx_loopai.files import cache_folder, digest_name, write_whole
from mlx_loopai.language import tr

PREFIX = "lm-eval:"
_LAST_LINES = 3
Scores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class LmEval:
    """lm-eval's tasks by name, at most `limit` items of each, with its own few-shot examples and chat template."""

    tasks: tuple[str, ...]
    limit: int | None = None

    @staticmethod
    def of(suite: str, limit: int | None = None) -> LmEval:
        """`lm-eval:TASK,TASK`. Raises: InputError when it names no task or lm-eval is not installed."""
        tasks = tuple(task.strip() for task in suite.removeprefix(PREFIX).split(",") if task.strip())
        if not tasks:
            raise InputError(
                tr(
                    "`suite` {suite}: names no task; give {prefix}TASK,TASK, such as {prefix}arc_easy",
                    suite=suite,
                    prefix=PREFIX,
                )
            )
        if importlib.util.find_spec("lm_eval") is None:
            raise InputError(
                tr(
                    "`suite` {suite}: lm-eval is not installed; {install}",
                    suite=suite,
                    install=install_command("lm-eval"),
                )
            )
        return LmEval(tasks, limit)


def evaluate(suite: LmEval, model: Path) -> Scores:
    """Task -> metric -> value, of the model in the folder `model`; Ctrl-C stops it.

    Raises: LoopaiError with the last lines of its output, for example for an unknown task or missing data.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mlx_lm", "evaluate", "--model", str(model), "--output-dir", folder]
        command += ["--tasks", *suite.tasks, *(["--limit", str(suite.limit)] if suite.limit else [])]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", env=os.environ, check=False)
        found = [path for path in Path(folder).iterdir() if path.is_file()]
        if ended.returncode or not found:
            said = " ".join(" ".join(ended.stderr.split("\n")[-1 - _LAST_LINES :]).split())
            raise LoopaiError(
                tr(
                    "lm-eval {tasks}: ended with status {returncode}: {said}; see `lm-eval ls tasks`; its data comes "
                    "from the hub, which must be reachable the first time",
                    tasks=",".join(suite.tasks),
                    returncode=ended.returncode,
                    said=said[-400:],
                )
            )
        return _scores(json.loads(found[0].read_text(encoding="utf-8")))


def kept_scores(suite: LmEval, model: Path, base_hash: str) -> Scores:
    """`evaluate`, cached by the hash of the model's weights, the tasks and lm-eval's version."""
    parts = [base_hash, asdict(suite), version("lm_eval"), version("mlx-lm")]
    path = cache_folder() / f"lm-eval-{digest_name(parts)}.json"
    try:
        return _scores(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError):
        scores = evaluate(suite, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(scores))
    return scores


def report(suite: str, model: str, adapter: str | None, base: Scores, tuned: Scores | None) -> dict[str, Any]:
    """The evaluation's JSON document for lm-eval's tasks. Without single answers there is no retention to compute."""
    return {"suite": suite, "model": model, "adapter": adapter, "base": base, "tuned": tuned, "retention": None}


def _scores(document: dict[str, dict[str, Any]]) -> Scores:
    """The numbers of lm-eval's result, whose metrics are called `acc,none` and `acc_stderr,none`."""
    return {
        task: {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
        for task, metrics in document.items()
    }
