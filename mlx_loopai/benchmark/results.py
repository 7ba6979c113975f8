"""Result files: what a race found, where and how; two of them compared."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from mlx_loopai.benchmark.race import FIRST_LOSS_TOLERANCE
from mlx_loopai.errors import InputError
from mlx_loopai.files import write_whole

FORMAT = 1
_RATES = {"train": "supervised_tokens_per_s", "generate": "tokens_per_s"}


def rate_name(result: dict[str, Any]) -> str:
    """The figure that a race of this kind is about."""
    return _RATES[result["kind"]]


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result file, indented so that two can be read side by side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"format": FORMAT, **result}, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def read_result(path: Path) -> dict[str, Any]:
    """A result file's content. Raises: InputError for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; mlx-loopai benchmark train writes one") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(found, dict) or found.get("kind") not in _RATES or not isinstance(found.get("backends"), dict):
        raise InputError(f"{path}: not a result of mlx-loopai benchmark train or generate")
    return found


def compare_results(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Each side that both results have: its rates, peaks, and after / before.

    `equal`: the same case, and the same first losses; `differences` names what is not, the machine's part too.

    Raises: InputError when one is of training and the other of generation, or they have no side in common.
    """
    if before["kind"] != after["kind"]:
        raise InputError(f"compare: one result is of {before['kind']}, the other of {after['kind']}")
    shared = [name for name in before["backends"] if name in after["backends"]]
    if not shared:
        raise InputError("compare: the two results have no backend in common")
    rate = rate_name(before)
    sides, ratios = {}, {}
    for name in shared:
        one, other = before["backends"][name], after["backends"][name]
        kept = (rate, "peak_bytes", "loss_first")
        sides[name] = {"before": {key: one[key] for key in kept}, "after": {key: other[key] for key in kept}}
        ratios[name] = {key: other[key] / one[key] if one[key] else None for key in (rate, "peak_bytes")}
    differences = _other_case(before, after) + _other_losses(before, after, shared)
    return {
        "kind": before["kind"],
        "backends": sides,
        "ratios": ratios,
        "equal": not differences,
        "differences": differences,
        "machines": [result.get("machine", {}).get("chip") for result in (before, after)],
    }


def _other_case(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    names = {**before["case"], **after["case"]}
    return [
        f"case.{name}: {before['case'].get(name)} and {after['case'].get(name)}"
        for name in names
        if before["case"].get(name) != after["case"].get(name)
    ]


def _other_losses(before: dict[str, Any], after: dict[str, Any], shared: list[str]) -> list[str]:
    found = []
    for name in shared:
        one, other = (result["backends"][name]["loss_first"] for result in (before, after))
        if one is not None and other is not None and not math.isclose(one, other, rel_tol=FIRST_LOSS_TOLERANCE):
            found.append(f"{name}: first loss {one:.6g} and {other:.6g}")
    return found
