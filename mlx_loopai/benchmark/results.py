"""Compares two results of the same race, such as before and after a change."""

from __future__ import annotations

import math
from typing import Any

from mlx_loopai.benchmark.race import FIRST_LOSS_TOLERANCE
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.runs.documents.race import GenerateRace, TrainRace

Result = TrainRace | GenerateRace


def compare_results(before: Result, after: Result) -> dict[str, Any]:
    """For each side that both results have: its rates, peaks, and the ratios after / before.

    equal: whether case and first losses are the same; differences: what differs, including the machine.

    Raises: InputError when one is of training and the other of generation, or they have no side in common.
    """
    if before.kind != after.kind:
        raise InputError(
            tr("compare: one result is of {kind}, the other of {other}", kind=before.kind, other=after.kind)
        )
    shared = [name for name in before.backends if name in after.backends]
    if not shared:
        raise InputError(tr("compare: the two results have no backend in common"))
    sides: dict[str, Any] = {}
    ratios: dict[str, Any] = {}
    for name in shared:
        one, other = _figures(before, name), _figures(after, name)
        sides[name] = {"before": one, "after": other}
        ratios[name] = {key: other[key] / one[key] if one[key] else None for key in (before.RATE, "peak_bytes")}
    differences = _other_case(before, after) + _other_losses(before, after, shared)
    return {
        "kind": before.kind,
        "backends": sides,
        "ratios": ratios,
        "equal": not differences,
        "differences": differences,
        "machines": [result.machine.chip if result.machine else None for result in (before, after)],
    }


def _figures(result: Result, name: str) -> dict[str, Any]:
    side = result.backends[name]
    return {result.RATE: result.rate(name), "peak_bytes": side.peak_bytes, "loss_first": side.loss_first}


def _other_case(before: Result, after: Result) -> list[str]:
    names = {**before.case, **after.case}
    return [
        f"case.{name}: {before.case.get(name)} and {after.case.get(name)}"
        for name in names
        if before.case.get(name) != after.case.get(name)
    ]


def _other_losses(before: Result, after: Result, shared: list[str]) -> list[str]:
    found = []
    for name in shared:
        one, other = (result.backends[name].loss_first for result in (before, after))
        if one is not None and other is not None and not math.isclose(one, other, rel_tol=FIRST_LOSS_TOLERANCE):
            found.append(f"{name}: first loss {one:.6g} and {other:.6g}")
    return found
