"""Language steering in the weights: the head is changed so that tokens of some scripts become less likely.

The head's rows of such tokens are multiplied by a factor below 1. Their logits are large where such a token is about to
be written, and then fall behind the others. It works in any program that runs the output, without masking logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from converters.json_files import read_object
from converters.tensors import Checkpoint, TensorEntry, cast, to_float32
from converters.tokenizer import added_tokens, vocabulary
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.architectures import architecture_of
from mlx_loopai.models.encoder import ENCODERS
from mlx_loopai.models.token_bytes import bytes_of_tokens
from mlx_loopai.models.token_scripts import SCRIPTS, row_factors

AUTO = "auto"
# For Qwen2.5-0.5B (docs/benchmarks.md, "Steering").
AUTO_FACTORS = {"han": 0.5, "kana": 0.5}


@dataclass(frozen=True)
class Steering:
    """script -> factor in [0, 1) for the rows of tokens that write it; of several the smallest counts."""

    factors: Mapping[str, float]

    @classmethod
    def parse(cls, text: str) -> Steering:
        """`auto`, or a list such as `han=0.5,kana=0.5`. Raises: InputError naming what is wrong."""
        if text.strip() == AUTO:
            return cls(AUTO_FACTORS)
        factors: dict[str, float] = {}
        for part in text.split(","):
            script, _, number = (piece.strip() for piece in part.partition("="))
            if script not in SCRIPTS:
                raise InputError(
                    tr(
                        "`steer` {text}: {script!r} is not a script; there are {scripts}",
                        text=text,
                        script=script or part,
                        scripts=", ".join(SCRIPTS),
                    )
                )
            try:
                factors[script] = float(number)
            except ValueError:
                raise InputError(
                    tr("`steer` {text}: {part!r} is not SCRIPT=FACTOR, such as han=0.5", text=text, part=part.strip())
                ) from None
            if not 0 <= factors[script] < 1:
                raise InputError(
                    tr(
                        "`steer` {text}: {script} {number}: a factor is at least 0 and below 1, such as 0.5",
                        text=text,
                        script=script,
                        number=number,
                    )
                )
        return cls(factors)

    def __str__(self) -> str:
        return ",".join(f"{script}={factor:g}" for script, factor in self.factors.items())


def steered(checkpoint: Checkpoint, tokenizer: Sequence[Path], steering: Steering) -> Checkpoint:
    """`checkpoint` with the rows of its head multiplied; a tied head becomes a matrix of its own.

    The embedding stays as it is: what the model reads does not change, only what it writes.
    Source: Ji et al. 2025, "Smoothie-Qwen" (arXiv 2507.05686), which scales by script too. Here a token with a part of
    a character counts by the characters that it can begin, where theirs samples n-grams; the embedding is never scaled.
    Raises: InputError for a text encoder, and for a tokenizer without bytes.
    """
    config = checkpoint.config
    if config["model_type"] in ENCODERS:
        raise InputError(
            tr("{source}: is a text encoder and has no head to steer; leave out `steer`", source=checkpoint.source)
        )
    path = next((path for path in tokenizer if path.name == "tokenizer.json"), None)
    if path is None:
        raise InputError(
            tr(
                "{source}: `steer` needs tokenizer.json; give `tokenizer` the folder that holds it",
                source=checkpoint.source,
            )
        )
    added = added_tokens(read_object(path))
    words = {index: token for index, token in vocabulary(path).items() if index not in added}
    factors = row_factors(bytes_of_tokens(words, str(path)), steering.factors, config["vocab_size"])
    architecture = architecture_of(config["model_type"], str(checkpoint.source))
    tied = bool(config["tie_word_embeddings"]) and not architecture.always_own_head
    source = architecture.embedding if tied else architecture.head
    head = _scaled(next(entry for entry in checkpoint.entries if entry.name == source), architecture.head, factors)
    others = tuple(entry for entry in checkpoint.entries if entry.name != architecture.head)
    notes = [f"steered {steering}: {int((factors != 1).sum())} of {len(factors)} rows of the head"]
    if tied:
        notes.append(tr("the head was the embedding and is now a matrix of its own"))
    return replace(
        checkpoint,
        config=config | {"tie_word_embeddings": False},
        entries=(*others, head),
        notes=(*checkpoint.notes, "; ".join(notes)),
    )


def _scaled(entry: TensorEntry, name: str, factors: np.ndarray) -> TensorEntry:
    """`entry` under another name, each row multiplied by its factor; the others keep their bits."""

    def read_rows(start: int, stop: int) -> np.ndarray:
        rows = entry.read_rows(start, stop)
        touched = np.flatnonzero(factors[start:stop] != 1)
        if touched.size:
            rows = rows.copy()
            wide = to_float32(rows[touched], entry.dtype) * factors[start:stop][touched, None]
            rows[touched] = cast(wide, "F32", entry.dtype)
        return rows

    return TensorEntry(name, entry.shape, dtype=entry.dtype, read_rows=read_rows, origin=f"{entry.origin} (steered)")
