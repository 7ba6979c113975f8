"""Draws the rows of a phase: passes over each source by weight, with rehearsal rows mixed in. All seeded."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from mlx_loopai.data.chosen_rows import ChosenRows, Places
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr


def draw(
    rows_by_source: Mapping[str, Sequence[TokenRow]], weights: Mapping[str, float], seed: int
) -> Sequence[TokenRow]:
    """The rows of a phase, shuffled. A weight is a number of passes over its source.

    2.5 means every row twice, and a seeded half of the rows a third time. A source without a weight is left out. What
    is drawn from one source does not depend on the others.

    Raises: InputError for a weight that is not a count, for one that names no source or a source without rows, and
        when nothing is drawn.
    """
    problems = [problem for name, weight in weights.items() if (problem := _problem(rows_by_source, name, weight))]
    if problems:
        raise InputError(tr("mixture: {problems}", problems=all_problems(problems)))
    sources, drawn, before = [], [], 0
    for name in sorted(weights):
        rows = rows_by_source[name]
        generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
        drawn.append(before + _passes(len(rows), weights[name], generator))
        sources.append(rows)
        before += len(rows)
    if not any(map(len, drawn)):
        raise InputError(tr("mixture: the weights draw no row at all; raise one of them"))
    return _shuffled(sources, np.concatenate(drawn), seed)


def with_replay(
    rows: Sequence[TokenRow], replay_rows: Sequence[TokenRow], share: float, seed: int
) -> Sequence[TokenRow]:
    """All `rows` and enough replay rows to make `share` of the result (to the nearest row), shuffled.

    Replay rows are cycled through: no row comes a second time before every row came once.

    Raises: InputError for a share outside [0, 1), or without replay rows although the share asks for some.
    """
    if not 0 <= share < 1:
        raise InputError(tr("replay.share: {share} is not a share of the rows; give 0 <= share < 1", share=share))
    count = round(len(rows) * share / (1 - share))
    if count and not replay_rows:
        raise InputError(
            tr("replay.share: {share} of the rows cannot be rehearsed without rehearsal rows; set it to 0", share=share)
        )
    generator = np.random.default_rng([seed, zlib.crc32(b"replay")])
    replayed = _passes(len(replay_rows), count / len(replay_rows) if count else 0.0, generator)
    return _shuffled(
        [rows, replay_rows], np.concatenate([np.arange(len(rows), dtype=np.int32), len(rows) + replayed]), seed
    )


def _problem(rows_by_source: Mapping[str, Sequence[TokenRow]], name: str, weight: float) -> str | None:
    if not (math.isfinite(weight) and weight >= 0):
        return tr("the weight {weight} of {name} is not a number of passes; give 0 or more", weight=weight, name=name)
    if name not in rows_by_source:
        return tr(
            "unknown source {name}; defined: {rows_by_source}",
            name=name,
            rows_by_source=", ".join(sorted(rows_by_source)) or "none",
        )
    if weight > 0 and not rows_by_source[name]:
        return f"the source {name} has no rows; give it some or leave it out"
    return None


def _passes(rows: int, passes: float, generator: np.random.Generator) -> Places:
    # The product is rounded, not the passes: 0.1 + 0.2 passes over 10 rows must not lose a row to binary fractions.
    count = round(passes * rows)
    whole, rest = divmod(count, rows) if rows else (0, 0)
    own = np.arange(rows, dtype=np.int32)
    again = np.sort(generator.permutation(own)[:rest]) if rest else own[:0]
    return np.concatenate([*(own for _ in range(whole)), again])


def _shuffled(parts: Sequence[Sequence[TokenRow]], places: Places, seed: int) -> Sequence[TokenRow]:
    return ChosenRows(parts, np.random.default_rng(seed).permutation(places))
