"""A base's measurement, kept between runs: it costs minutes and does not change.

Answers are stored, not verdicts: they are judged anew when read, so that a better judge needs no new generation.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_loopai.data.records import Record
from mlx_loopai.evaluation.measure import Measurement
from mlx_loopai.evaluation.probes import Probe, judged
from mlx_loopai.files import cache_folder, write_whole
from mlx_loopai.models.load import LoadedModel


def cache_path(
    loaded: LoadedModel, system_prompt: str, probes: Sequence[Probe], held_out: Sequence[Record], max_tokens: int
) -> Path:
    """The file for this base and everything else that its answers and its perplexity depend on."""
    dtype = loaded.model.model.norm.weight.dtype
    parts = [
        loaded.base_hash,
        str(dtype),
        str(mx.default_device()),
        mx.__version__,
        str(getattr(loaded.tokenizer, "chat_template", "")),
        system_prompt,
        max_tokens,
        [[probe.name, [item.prompt for item in probe.items]] for probe in probes],
        [[message.content for message in record.messages] for record in held_out],
    ]
    digest = hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()
    return cache_folder() / f"base-{digest[:32]}.json"


def read(path: Path, probes: Sequence[Probe]) -> Measurement | None:
    """The stored measurement of `probes`, judged anew; None when there is none or it cannot be used."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        results = tuple(judged(probe, *_answers(stored["probes"][probe.name])) for probe in probes)
        return Measurement(results, float(stored["held_out_nll"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(path: Path, measurement: Measurement) -> None:
    """Store a measurement, whole or not at all. A cache that cannot be written costs time, not the result."""
    stored = {
        "held_out_nll": measurement.held_out_nll,
        "probes": {
            result.name: [[text, ended] for text, ended in zip(result.answers, result.finished, strict=True)]
            for result in measurement.results
        },
    }
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(stored, ensure_ascii=False))


def _answers(stored: Any) -> tuple[list[str], list[bool]]:
    return [str(text) for text, _ in stored], [bool(ended) for _, ended in stored]
