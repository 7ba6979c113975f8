"""Fits the constants of `memory.sizes` to measured steps, and measures how well they predict steps held out.

Pure: measured rows in (docs/memory.md describes them); constants, errors and tables out.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any

from mlx_loopai.memory.predict import predict, resting_bytes
from mlx_loopai.memory.sizes import EXPERTS, LINEAR_ATTENTION, Constants, StepOptions
from mlx_loopai.models.shape import ModelShape

_TRIALS = 400
# A plan that predicts too little ends in swap; one that predicts too much only costs time.
_AIM, _ALLOWED_UNDER, _UNDER_WEIGHT = 0.02, 0.01, 4.0
_HEADER = (
    "| configurations | n | median error | 95th percentile | lowest predicted/measured | highest |",
    "|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Errors:
    """Predicted over measured peaks of `n` steps. `median`, `p95`: of the absolute relative error."""

    n: int
    median: float
    p95: float
    lowest: float
    highest: float


# Measured steps have no guard; in files of earlier releases these keys say so.
_OF_GUARDS = ("penalty", "penalty_activations", "diverges")


def options_of(row: Mapping[str, Any]) -> StepOptions:
    """The step's options of a measured row."""
    options = {name: value for name, value in row["options"].items() if name not in _OF_GUARDS}
    return StepOptions(**{**options, "lora_targets": tuple(options["lora_targets"])})


@cache
def _case(text: str) -> tuple[ModelShape, StepOptions]:
    """Shape and options of a row as JSON, for which a fit asks thousands of times."""
    config, options = json.loads(text)
    return ModelShape.from_config(config), options_of({"options": options})


def is_held_out(row: Mapping[str, Any]) -> bool:
    """Whether the row is held out: rows of a seed of their own, drawn after the form of the prediction was fixed."""
    return bool(row["held_out"])


def ratios(
    rows: Sequence[Mapping[str, Any]],
    constants: Constants | None = None,
    *,
    at_rest: bool = False,
    transient: bool = False,
) -> list[float]:
    """Predicted over measured bytes of every row: of the peak, of what stays between steps (`at_rest`), or of what a
    step needs besides (`transient`)."""
    found = []
    for row in rows:
        shape, options = _case(json.dumps([row["config"], row["options"]]))
        predicted = predict(shape, options, "cpu", constants=constants)
        resting = resting_bytes(shape, options)
        if at_rest:
            found.append(resting / row["at_rest_bytes"])
        elif transient:
            found.append((predicted.peak_bytes - resting) / (row["peak_bytes"] - row["at_rest_bytes"]))
        else:
            found.append(predicted.peak_bytes / row["peak_bytes"])
    return found


def errors(rows: Sequence[Mapping[str, Any]], constants: Constants | None = None, transient: bool = False) -> Errors:
    """How well the constants (the committed ones by default) predict `rows`."""
    found = ratios(rows, constants, transient=transient)
    sizes = sorted(abs(ratio - 1) for ratio in found)
    return Errors(
        n=len(found),
        median=_quantile(sizes, 0.5),
        p95=_quantile(sizes, 0.95),
        lowest=min(found),
        highest=max(found),
    )


USUAL = tuple(found.name for found in fields(Constants) if found.name not in LINEAR_ATTENTION + EXPERTS)


def fit(
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str] = USUAL,
    start: Constants | None = None,
    seed: int = 0,
    trials: int = _TRIALS,
) -> Constants:
    """The constants that predict `rows` best, from a seeded search that changes one at a time; all stay positive.

    Only those of `names` are changed, from `start` on.
    """
    draw = random.Random(seed)
    best = start or Constants()
    lowest = _misfit(rows, best)
    reach = dict.fromkeys(names, 0.4)
    for _ in range(trials):
        name = draw.choice(names)
        tried = Constants(**{**asdict(best), name: getattr(best, name) * math.exp(draw.gauss(0, reach[name]))})
        found = _misfit(rows, tried)
        # Steps grow where they help and shrink where they do not.
        reach[name] = max(0.01, reach[name] * (1.5 if found < lowest else 0.93))
        if found < lowest:
            best, lowest = tried, found
    return Constants(**{name: float(f"{value:.3g}") for name, value in asdict(best).items()})


def _misfit(rows: Sequence[Mapping[str, Any]], constants: Constants) -> float:
    logs = [math.log(ratio) for ratio in ratios(rows, constants)]
    over = sum(abs(value - _AIM) ** 1.5 for value in logs)
    under = sum(min(0.0, value + _ALLOWED_UNDER) for value in logs)
    return (over - _UNDER_WEIGHT * under) / len(logs)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown table of docs/memory.md: errors on the half that was fitted and, by kind, on the half held out."""
    held = [row for row in rows if is_held_out(row)]
    kinds = {
        "fitted": [row for row in rows if not is_held_out(row)],
        "**held out**": held,
        "held out, checkpointing": [row for row in held if row["options"]["checkpointing"]],
        "held out, no checkpointing": [row for row in held if not row["options"]["checkpointing"]],
        "held out, fp32": [row for row in held if row["options"]["base_precision"] == "fp32"],
        "held out, bf16": [row for row in held if row["options"]["base_precision"] == "bf16"],
        "held out, 4-bit": [row for row in held if row["options"]["base_precision"] == "4-bit"],
        "held out, vocabulary of 64,000 and more": [row for row in held if row["config"]["vocab_size"] >= 64000],
        "held out, real 0.5B shape": [row for row in held if row["config"]["num_hidden_layers"] == 24],
    }
    return "\n".join([*_HEADER, *(_line(kind, errors(found)) for kind, found in kinds.items() if found)])


def own_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of docs/memory.md for models whose constants are fitted apart: linear attention, experts."""
    held = [row for row in rows if is_held_out(row)]
    kinds = {"fitted": [row for row in rows if not is_held_out(row)], "**held out**": held}
    lines = [_line(kind, errors(found)) for kind, found in kinds.items()]
    return "\n".join([*_HEADER, *lines, _line("held out, besides what rests", errors(held, transient=True))])


def transient_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of docs/memory.md for what a step needs besides what stays between steps."""
    halves = {"fitted": False, "**held out**": True}
    lines = [
        _line(kind, errors([row for row in rows if is_held_out(row) is held], transient=True))
        for kind, held in halves.items()
    ]
    return "\n".join([*_HEADER, *lines])


def _line(kind: str, found: Errors) -> str:
    return f"| {kind} | {found.n} | {found.median:.1%} | {found.p95:.1%} | {found.lowest:.3f} | {found.highest:.3f} |"


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
