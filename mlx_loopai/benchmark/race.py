"""The two races, from a case to a result that can be written, compared and drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_loopai.benchmark.backends import OWN, OWN_COMPILED
from mlx_loopai.benchmark.cases import CaseRows, GenerateCase, TrainCase, write_train_case
from mlx_loopai.benchmark.protocol import Figure, RunJob, paired_ratio, take_turns
from mlx_loopai.benchmark.race_results import BatchMeasured, TrainMeasured
from mlx_loopai.benchmark.roofline import decoding_bytes, share_of_peak, training_flops
from mlx_loopai.benchmark.worker import Job
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.memory.speed import Peak
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.progress import Advance, ignore
from mlx_loopai.runs.documents.race import BatchRate, GenerateRace, GenerateSide, Ratio, TrainRace, TrainSide

# Largest relative difference of first losses: with the same float32 weights and rows they differ by rounding only.
FIRST_LOSS_TOLERANCE = 1e-4
# The same for held-out losses after training: each side groups rows into steps differently.
HELD_OUT_TOLERANCE = 0.02


@dataclass(frozen=True)
class Setup:
    """How a race is run. backends: the sides; the first is compared with the others. rounds: turns of each side.

    run: runs a turn. peak: the machine's; None: no share of it is reported.
    """

    backends: Sequence[str]
    rounds: int
    run: RunJob
    peak: Peak | None = None


def race_training(
    case: TrainCase, rows: CaseRows, folder: Path, setup: Setup, on_progress: Advance = ignore
) -> TrainRace:
    """The result of a training race in `folder`, which keeps the case and the adapters.

    Every side's last adapter is scored on the held-out rows by one evaluator, mlx-loopai's.
    """
    write_train_case(folder, case, rows)

    def turn(name: str, number: int) -> dict[str, Any]:
        return setup.run(Job("train", backend=name, folder=str(folder), adapter_out=str(folder / f"{name}-{number}")))

    found = take_turns(setup.backends, setup.rounds, turn, on_progress)
    shape = ModelShape.from_folder(Path(case.model))
    measured = {name: [TrainMeasured(**one) for one in results] for name, results in found.items()}
    adapters = {name: str(folder / f"{name}-{setup.rounds - 1}") for name in found}
    held_out = {
        name: setup.run(Job("score", backend=OWN, folder=str(folder), adapter_out=adapters[name]))["held_out_nll"]
        for name in found
    }
    first = {name: turns[-1].loss_first for name, turns in measured.items()}
    differences = _differing(first, "loss_first", FIRST_LOSS_TOLERANCE)
    differences += _differing(held_out, "held_out_nll", HELD_OUT_TOLERANCE)
    return TrainRace(
        case={**asdict(case), "model": Path(case.model).name, "rows": _described(rows)},
        rounds=setup.rounds,
        backends={
            name: _training_side(name, turns, held_out[name], shape, setup.peak) for name, turns in measured.items()
        },
        ratios=_ratios(found, _train_values),
        equal=not differences,
        differences=tuple(differences),
    )


def race_generation(case: GenerateCase, setup: Setup, on_progress: Advance = ignore) -> GenerateRace:
    """The result of a generation race. `equal`: all sides gave the same tokens for each prompt and batch size.

    Raises: InputError for the compiled side, since generation has one path.
    """
    if OWN_COMPILED in setup.backends:
        raise InputError(
            tr(
                "backends: {compiled} is a way to train, and answers are generated in one way; take {own}",
                compiled=OWN_COMPILED,
                own=OWN,
            )
        )
    job = {"model": case.model, "prompts": case.prompts, "max_tokens": case.max_tokens, "batches": case.batches}

    def turn(name: str, _: int) -> dict[str, Any]:
        return setup.run(Job("generate", name, generate=job))

    found = take_turns(setup.backends, setup.rounds, turn, on_progress)
    shape = ModelShape.from_folder(Path(case.model))
    sides = {name: _generation_side(name, results, shape, setup.peak) for name, results in found.items()}
    differences = _differing_answers(found)
    return GenerateRace(
        case={
            "model": Path(case.model).name,
            "prompts": len(case.prompts),
            "prompt_tokens": [len(prompt) for prompt in case.prompts],
            "max_tokens": case.max_tokens,
            "batches": list(case.batches),
        },
        rounds=setup.rounds,
        backends=sides,
        ratios=_ratios(found, _generate_values),
        equal=not differences,
        differences=tuple(differences),
    )


def _training_side(
    name: str, rounds: list[TrainMeasured], held_out_nll: float, shape: ModelShape, peak: Peak | None
) -> TrainSide:
    last = rounds[-1]
    rate = Figure.of([one.supervised_tokens_per_s for one in rounds])
    flops_s = max(training_flops(shape, one.tokens, one.supervised_tokens) / one.timed_s for one in rounds)
    return TrainSide(
        supervised_tokens_per_s=rate.median,
        interval=(rate.low, rate.high),
        tokens_per_s=Figure.of([one.tokens_per_s for one in rounds]).median,
        peak_bytes=max(one.peak_bytes for one in rounds),
        memory=last.memory,
        weights_bytes=last.weights_bytes,
        loss_first=last.loss_first,
        start_s=Figure.of([one.start_s for one in rounds]).median,
        first_s=Figure.of([one.first_s for one in rounds]).median,
        steps=last.steps,
        real_token_share=last.real_token_share,
        flops_share=share_of_peak(f"{name}, training", flops_s, peak.flops_s) if peak else None,
        held_out_nll=held_out_nll,
        versions=last.versions,
        rounds=tuple(asdict(one) for one in rounds),
    )


def _generation_side(name: str, results: list[dict[str, Any]], shape: ModelShape, peak: Peak | None) -> GenerateSide:
    rounds = [_batches(result) for result in results]
    batches = {str(same[0].batch): _batch_rate(name, list(same), shape, peak) for same in zip(*rounds, strict=True)}
    return GenerateSide(
        tokens_per_s=next(iter(batches.values())).tokens_per_s,
        peak_bytes=max(entry.peak_bytes for entry in batches.values()),
        memory=results[-1]["memory"],
        weights_bytes=results[-1]["weights_bytes"],
        start_s=Figure.of([result["start_s"] for result in results]).median,
        batches=batches,
        versions=results[-1]["versions"],
    )


def _batch_rate(name: str, rounds: list[BatchMeasured], shape: ModelShape, peak: Peak | None) -> BatchRate:
    rate = Figure.of([one.tokens_per_s for one in rounds])
    read_s = decoding_bytes(shape) * max(one.tokens_per_s for one in rounds) / rounds[0].batch
    return BatchRate(
        tokens_per_s=rate.median,
        interval=(rate.low, rate.high),
        prefill_tokens_per_s=Figure.of([one.prefill_tokens_per_s for one in rounds]).median,
        first_token_s=Figure.of([one.first_token_s for one in rounds]).median,
        peak_bytes=max(one.peak_bytes for one in rounds),
        bandwidth_share=share_of_peak(f"{name}, decoding", read_s, peak.bytes_s) if peak else None,
    )


def _ratios(found: dict[str, list[dict[str, Any]]], values: Any) -> dict[str, dict[str, Ratio | None]]:
    """One side's figures divided by another's, round by round: rates above 1 and peaks below 1 favour the first.

    The first side is divided by all others; our compiled side, if it is another, by those that are not ours.
    """
    first, *others = found
    pairs = [(first, other) for other in others]
    if OWN_COMPILED in others:
        pairs += [(OWN_COMPILED, other) for other in others if other not in (OWN, OWN_COMPILED)]
    return {
        f"{one}/{other}": {
            name: Ratio(**asdict(ratio)) if (ratio := paired_ratio(ours, theirs)) else None
            for (name, ours), theirs in zip(values(found[one]).items(), values(found[other]).values(), strict=True)
        }
        for one, other in pairs
    }


def _train_values(results: list[dict[str, Any]]) -> dict[str, list[float]]:
    rounds = [TrainMeasured(**one) for one in results]
    return {
        "supervised_tokens_per_s": [one.supervised_tokens_per_s for one in rounds],
        "peak_bytes": [float(one.peak_bytes) for one in rounds],
    }


def _generate_values(results: list[dict[str, Any]]) -> dict[str, list[float]]:
    rounds = [_batches(result)[0] for result in results]
    return {
        "tokens_per_s": [one.tokens_per_s for one in rounds],
        "first_token_s": [one.first_token_s for one in rounds],
        "peak_bytes": [float(one.peak_bytes) for one in rounds],
    }


def _batches(result: dict[str, Any]) -> list[BatchMeasured]:
    return [
        BatchMeasured(**{**entry, "answers": tuple(tuple(answer) for answer in entry["answers"])})
        for entry in result["batches"]
    ]


def _differing(losses: dict[str, float], name: str, tolerance: float) -> list[str]:
    """A description of each side whose loss differs by more than `tolerance` (relative) from the first side's."""
    first, *others = losses
    return [
        f"{name}: {other} {losses[other]:.6g}, {first} {losses[first]:.6g}"
        for other in others
        if not math.isclose(losses[other], losses[first], rel_tol=tolerance)
    ]


def _differing_answers(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    first, *others = found
    expected = _batches(found[first][0])
    return [
        f"batch {ours.batch}: {other} answers prompt {place + 1} otherwise than {first}, from token {_parting(a, b)} on"
        for other in (first, *others)
        for result in found[other]
        for ours, theirs in zip(expected, _batches(result), strict=True)
        for place, (a, b) in enumerate(zip(ours.answers, theirs.answers, strict=True))
        if a != b
    ]


def _parting(one: Sequence[int], other: Sequence[int]) -> int:
    """The number (from 1) of the first token in which two answers differ."""
    same = next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    return 1 + (min(len(one), len(other)) if same is None else same)


def _described(rows: CaseRows) -> dict[str, Any]:
    lengths = [len(row.ids) for row in rows.train]
    return {
        "train": len(rows.train),
        "held_out": len(rows.held_out),
        "tokens": sum(lengths),
        "longest": max(lengths),
        "supervised_tokens": sum(int(row.supervised.sum()) for row in rows.train),
    }
