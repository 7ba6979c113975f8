"""Results of sides that never ran, so that tests know every figure."""

from __future__ import annotations

from typing import Any

from mlx_loopai.benchmark.worker import Job


def trained(rate: float = 100.0, loss: float = 2.0, peak: int = 1000, seconds: float = 4.0) -> dict[str, Any]:
    """A TrainMeasured as a worker gives it: `rate` supervised tokens a second, twice as many real ones."""
    supervised = int(rate * seconds)
    return {
        "loss_first": loss,
        "start_s": 1.0,
        "first_s": 0.5,
        "timed_s": seconds,
        "steps": 3,
        "supervised_tokens": supervised,
        "tokens": 2 * supervised,
        "all_tokens": 3 * supervised,
        "computed_tokens": 4 * supervised,
        "weights_bytes": 5000,
        "peak_bytes": peak,
        "memory": "fake",
        "versions": {"fake": "1"},
    }


def generated(answers: list[list[list[int]]], decode_s: float = 1.0) -> dict[str, Any]:
    """A GenerateMeasured: `answers` of each batch size in turn, the first token after half a second."""
    batches = [
        {
            "batch": len(some),
            "prompt_tokens": 10 * len(some),
            "first_token_s": 0.5,
            "total_s": 0.5 + decode_s,
            "peak_bytes": 100 * len(some),
            "answers": some,
        }
        for some in answers
    ]
    return {"start_s": 1.0, "batches": batches, "weights_bytes": 5000, "memory": "fake", "versions": {"fake": "1"}}


class FakeRun:
    """Answers jobs with prepared results, one list a side, and remembers what it was asked."""

    def __init__(self, results: dict[str, list[dict[str, Any]]], held_out: dict[str, float] | None = None) -> None:
        self._results = {name: iter(found) for name, found in results.items()}
        self._held_out = held_out or {}
        self.jobs: list[Job] = []

    def __call__(self, job: Job) -> dict[str, Any]:
        self.jobs.append(job)
        if job.kind == "score":
            scored = job.adapter_out.rsplit("/", 1)[-1].rsplit("-", 1)[0]
            return {"held_out_nll": self._held_out.get(scored, 1.5)}
        return next(self._results[job.backend])
