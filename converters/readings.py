"""Compares a conversion's logits with those of other implementations, to find a configuration that is read differently.

Equal weights do not show that a loader dropped a configuration key. So the output is run by mlx-lm from the written
file, and compared with our numpy implementation of the source's config.json (`own_reading`), with transformers and, for
a GGUF file, with llama.cpp. The last two run only where they are installed and the model fits into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx_loopai  # noqa: F401  # before mlx: on Linux it loads the fast BLAS

# isort: split
import mlx.core as mx
import mlx.nn as nn
import numpy as np

from converters import other_readers, own_reading
from converters.streamed_model import logits, plain_model
from converters.tensors import Checkpoint
from mlx_loopai.errors import LoopaiError
from mlx_loopai.language import tr
from mlx_loopai.models.architectures.vision_language import family_of

# A share of the largest logit: float32 arithmetic in another order stays far below, a wrong key far above.
CLOSE = 1e-3
# llama.cpp rounds the inputs of a product to the type of the matrix, so that single logits lie far apart: what counts
# is the root mean square of the differences beside that of the logits, by general.file_type (fp32, fp16, bf16).
_CLOSE_IN_LLAMA_CPP, _CLOSE_QUANTISED = {0: 1e-2, 1: 1e-2, 32: 5e-2}, 1e-1
# Relative: an angle is a product in float32, so its error grows with the angle.
_ANGLE = 1e-5
_ADVICE = "a key of the configuration is read differently; the output was not kept, please report it"
_MIN_TOKENS, _MAX_TOKENS, _WORK = 48, 256, 2.5e11


@dataclass(frozen=True)
class Readings:
    """Largest differences of logits: `source_max_abs` from the source's as mlx-lm computes them (rounding included),
    `others` from those of each other reading of the same weights.
    """

    source_max_abs: float
    others: dict[str, float]


def probe_tokens(source: Checkpoint, output: Checkpoint) -> np.ndarray:
    """Random token ids (T,), more than the context has only where rotary angles depend on the length of the text.

    Positions beyond T are compared by their rotary angles alone (`_compare_rotary`).
    """
    n_elements = sum(entry.n_elements for entry in source.entries)
    longest = output.config["max_position_embeddings"]
    scaling = output.config.get("rope_scaling") or {}
    limit = longest + longest // 4 + 8 if scaling.get("rope_type") == "dynamic" else longest
    count = min(limit, max(_MIN_TOKENS, min(_MAX_TOKENS, int(_WORK / n_elements))))
    return np.random.default_rng(0).integers(0, source.config["vocab_size"], count).astype(np.int32)


def compare_readings(source: Checkpoint, output: Checkpoint, same_weights: bool) -> Readings:
    """Compare the logits of both models and of every other implementation, in float32.

    Our own implementations stream the weights from disk.

    Raises:
        LoopaiError: logits that are not finite, or that differ by more than arithmetic explains.
    """
    tokens = probe_tokens(source, output)
    # A folder with a tower is opened by our own class of its text model, with the complete configuration.
    sees = output.whole is not None and family_of(output.whole.get("model_type")) is not None
    written = output.config if output.raw is None or sees else output.raw
    wanted = logits(source, tokens[None])[0]
    found = logits(output, tokens[None], written)[0]
    if not (np.isfinite(found).all() and np.isfinite(wanted).all()):
        raise LoopaiError(
            tr(
                "{source}: the model gives logits that are not finite; the source checkpoint is damaged",
                source=output.source,
            )
        )
    difference = _largest(found, wanted)
    if same_weights:
        _require(difference, CLOSE, found, output, "the source's configuration")
    others: dict[str, float] = {}
    meant = source.config if source.raw is None else source.raw
    entries = {entry.name: entry for entry in output.entries}
    others["config.json"] = _largest(found, own_reading.logits(meant, entries, tokens))
    _require(others["config.json"], CLOSE, found, output, "what its config.json means")
    _compare_rotary(plain_model(written), meant, output)
    theirs = other_readers.transformers_logits(source, tokens)
    if theirs is not None:
        others["transformers"] = _largest(wanted, theirs)
        _require(others["transformers"], CLOSE, wanted, output, "transformers")
    theirs = other_readers.llama_cpp_logits(output, tokens)
    if theirs is not None:
        others["llama.cpp"] = _largest(found, theirs)
        form = int((output.gguf_metadata or {}).get("general.file_type", -1))
        spread = np.sqrt(np.square(theirs - found).mean() / np.square(found - found.mean()).mean())
        if not spread <= _CLOSE_IN_LLAMA_CPP.get(form, _CLOSE_QUANTISED):
            raise _unlike(output, others["llama.cpp"], "llama.cpp")
    return Readings(difference, others)


def _largest(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max())


def _require(difference: float, close: float, logits: np.ndarray, output: Checkpoint, reader: str) -> None:
    # A NaN must fail.
    if not difference <= close * float(np.abs(logits).max()):
        raise _unlike(output, difference, reader)


def _unlike(output: Checkpoint, difference: float, reader: str) -> LoopaiError:
    return LoopaiError(
        tr(
            "{source}: its logits differ by {difference:.3g} from those of {reader}, more than arithmetic "
            "explains: {advice}",
            source=output.source,
            difference=difference,
            reader=reader,
            advice=_ADVICE,
        )
    )


def _compare_rotary(model: nn.Module, config: Mapping[str, Any], output: Checkpoint) -> None:
    """Compare the rotary angles at the beginning, around the original context, at the context's end and beyond it."""
    kinds = own_reading.kinds(config)
    for kind in dict.fromkeys(kinds):
        if own_reading.has_positions(config, kind):
            block = model.layers[kinds.index(kind)]
            rope = (block.attention if config["model_type"] == "gpt_neox" else block.self_attn).rope
            _compare_angles(rope, config, kind, output)


def _compare_angles(rope: Callable[..., mx.array], config: Mapping[str, Any], kind: str, output: Checkpoint) -> None:
    longest = output.config["max_position_embeddings"]
    original = own_reading.rope_parameters(config, kind).get("original_max_position_embeddings") or longest
    head_dim = own_reading.head_dim(config)
    x = np.random.default_rng(0).normal(size=(1, 1, 8, head_dim)).astype(np.float32)
    scaling = output.config.get("rope_scaling") or {}
    beyond = longest + longest // 4 if scaling.get("rope_type") == "dynamic" else longest - 8
    for start in sorted({0, max(original - 4, 0), max(longest - 8, 0), max(beyond, 0)}):
        frequencies, factor = own_reading.rotary(config, start + 8, kind)
        angles = (start + np.arange(8))[:, None] * frequencies
        n = len(frequencies)
        size = factor * (np.abs(x[0, 0, :, :n]) + np.abs(x[0, 0, :, n : 2 * n]))
        turned = own_reading.rotated(x, config, start, kind)
        difference = np.abs(np.array(rope(mx.array(x), offset=start)) - turned)[0, 0]
        for half in (difference[:, :n], difference[:, n : 2 * n]):
            if not (half <= _ANGLE * (1 + angles) * size + 1e-6).all():
                raise LoopaiError(
                    tr(
                        "{source}: its rotary angles at position {start} are not those that the source's config.json "
                        "means: {advice}",
                        source=output.source,
                        start=start,
                        advice=_ADVICE,
                    )
                )
