"""Runs one side of one round in a process of its own, so that peaks, caches and libraries of two sides never mix.

python -m mlx_loopai.benchmark.worker JOB.json RESULT.json
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Before any side imports MLX, so that mlx-lm gets the same BLAS as we do.
import mlx_loopai  # noqa: F401
from mlx_loopai.benchmark.backends import Side, open_side
from mlx_loopai.benchmark.cases import GenerateCase, read_train_case
from mlx_loopai.benchmark.race_results import BatchMeasured, GenerateMeasured, StepClock, TrainMeasured
from mlx_loopai.errors import LoopaiError
from mlx_loopai.language import tr


@dataclass(frozen=True)
class Job:
    """A worker's job. kind: `train` or `score`, which read the case in `folder`, or `generate`, whose case is in
    `generate`.

    adapter_out: the adapter that `train` writes and `score` evaluates.
    """

    kind: str
    backend: str
    folder: str = ""
    adapter_out: str = ""
    generate: dict[str, Any] | None = None


def run_job(job: Job, opened: Callable[..., Side] = open_side) -> dict[str, Any]:
    """The job's result as a table: a TrainMeasured, a GenerateMeasured, or {"held_out_nll"}."""
    if job.kind == "generate":
        values = {name: _tuples(value) for name, value in (job.generate or {}).items()}
        return asdict(_generate(job, GenerateCase(**values), opened))
    folder = Path(job.folder)
    case, rows = read_train_case(folder)
    if job.kind == "score":
        side = opened(job.backend, Path(case.model), Path(job.adapter_out))
        return {"held_out_nll": side.loss(rows.held_out)}
    began = time.perf_counter()
    side = opened(job.backend, Path(case.model), folder / "adapter")
    start_s = time.perf_counter() - began
    loss = side.loss(rows.fixed)
    side.reset_peak()
    clock = StepClock()
    side.train(case, rows, clock)
    if not clock.timed_s:
        raise LoopaiError(
            tr("{backend}: no step was timed, since each had a new shape; give more steps", backend=job.backend)
        )
    peak = side.peak_bytes()
    if job.adapter_out:
        side.save_adapter(Path(job.adapter_out))
    return asdict(
        TrainMeasured(
            loss_first=loss,
            start_s=start_s,
            first_s=clock.first_s,
            timed_s=clock.timed_s,
            steps=clock.steps,
            supervised_tokens=clock.supervised,
            tokens=clock.tokens,
            all_tokens=clock.all_tokens,
            computed_tokens=clock.computed,
            weights_bytes=side.weights_bytes(),
            peak_bytes=peak,
            memory=side.memory,
            versions=side.versions,
        )
    )


def _generate(job: Job, case: GenerateCase, opened: Callable[..., Side]) -> GenerateMeasured:
    began = time.perf_counter()
    side = opened(job.backend, Path(case.model), None)
    start_s = time.perf_counter() - began
    weights_bytes = side.weights_bytes()
    measured = tuple(_one_batch(side, case, batch) for batch in case.batches)
    return GenerateMeasured(
        start_s=start_s, batches=measured, weights_bytes=weights_bytes, memory=side.memory, versions=side.versions
    )


def _one_batch(side: Side, case: GenerateCase, batch: int) -> BatchMeasured:
    """Measure one batch. An answer of one token gives the time to the first token; the rest of the time is decoding."""
    prompts = [case.prompts[index % len(case.prompts)] for index in range(batch)]
    side.generate(prompts, 2)
    side.reset_peak()
    began = time.perf_counter()
    side.generate(prompts, 1)
    first = time.perf_counter() - began
    began = time.perf_counter()
    answers = side.generate(prompts, case.max_tokens)
    total = time.perf_counter() - began
    return BatchMeasured(
        batch=batch,
        prompt_tokens=sum(map(len, prompts)),
        first_token_s=first,
        total_s=total,
        peak_bytes=side.peak_bytes(),
        answers=tuple(tuple(answer) for answer in answers),
    )


def _tuples(value: Any) -> Any:
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value


def main(arguments: list[str]) -> int:
    """Run the job in the file `arguments[0]` and write its result, or why it failed, to `arguments[1]`."""
    job = Job(**json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    try:
        result = run_job(job)
    except LoopaiError as error:
        result = {"error": str(error), "exit_status": error.exit_status}
    Path(arguments[1]).write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
