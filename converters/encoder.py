"""Reads sentence-transformers checkpoints of BERT, RoBERTa and XLM-R, renamed for `mlx_loopai.models.encoder`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from converters.json_files import parse_object, read_object
from converters.names import compare_tensors
from converters.tensors import Checkpoint, TensorEntry, to_float32
from converters.tokenizer import tokenizer_files
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.encoder import OWN_FIELD, POOLINGS, Encoder, EncoderShape

_TABLES = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "types",
    "embeddings.LayerNorm": "norm",
}
_LAYER = {
    "attention.self.query": "q_proj",
    "attention.self.key": "k_proj",
    "attention.self.value": "v_proj",
    "attention.output.dense": "o_proj",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up_proj",
    "output.dense": "down_proj",
    "output.LayerNorm": "norm",
}
# Names of a norm's parameters in checkpoints that were converted from TensorFlow.
_KINDS = {"gamma": "weight", "beta": "bias"}
# Used in pretraining only; sentence vectors do not need them.
_UNUSED = re.compile(r"(pooler|lm_head|cls|classifier)\.")


def read_encoder(
    folder: Path, raw: Mapping[str, Any], entries: Mapping[str, TensorEntry], dtype: str, files: tuple[Path, ...]
) -> Checkpoint:
    """The checkpoint in a folder of Hugging Face's or of MLX's form; `raw` is its config.json.

    Raises:
        InputError: unsupported pooling, a layer after the pooling, or missing, surplus or misshapen tensors.
    """
    shape = EncoderShape.from_config(raw, str(folder / "config.json"))
    found = dict(_renamed(entry) for entry in entries.values() if not _UNUSED.search(entry.name))
    compare_tensors({name: entry.shape for name, entry in found.items()}, shape.tensors(), "an encoder", str(folder))
    own = raw.get(OWN_FIELD) or {"pooling": _pooling(folder), "max_tokens": _max_tokens(folder, shape)}
    return Checkpoint(
        source=folder,
        config={**raw, OWN_FIELD: own},
        generation_config=None,
        entries=tuple(replace(entry, name=name) for name, entry in found.items()),
        dtype=dtype,
        files=files,
        tokenizer_files=tokenizer_files(folder),
    )


def states(checkpoint: Checkpoint, tokens: np.ndarray) -> np.ndarray:
    """The last hidden states (B, T, D) of token ids (B, T), computed in float32."""
    model = Encoder(EncoderShape.from_config(checkpoint.config, str(checkpoint.source)))
    weights = [(entry.name, mx.array(to_float32(entry.load(), entry.dtype))) for entry in checkpoint.entries]
    model.load_weights(weights)
    return np.array(model(mx.array(tokens), mx.full(tokens.shape[:1], tokens.shape[1])))


def _renamed(entry: TensorEntry) -> tuple[str, TensorEntry]:
    """MLX's name of the tensor; its own when it has none."""
    stem, _, kind = re.sub(r"^(roberta|bert)\.", "", entry.name).rpartition(".")
    kind = _KINDS.get(kind, kind)
    if stem in _TABLES:
        return f"{_TABLES[stem]}.{kind}", entry
    layer = re.fullmatch(r"encoder\.layer\.(\d{1,4})\.([\w.]+)", stem, re.ASCII)
    if layer and layer[2] in _LAYER:
        return f"layers.{layer[1]}.{_LAYER[layer[2]]}.{kind}", entry
    return entry.name, entry


def _pooling(folder: Path) -> str:
    """How the states are pooled to one vector: `mean` (also where nothing is said) or `cls`. Raises: InputError."""
    modules = folder / "modules.json"
    listed = parse_object(b'{"modules": ' + modules.read_bytes() + b"}", str(modules)) if modules.is_file() else {}
    kinds = [str(module.get("type")).rpartition(".")[2] for module in listed.get("modules", ())]
    more = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if more:
        raise InputError(
            tr(
                "{modules}: a {more} layer follows the encoder, which is not supported",
                modules=modules,
                more=", ".join(more)[:80],
            )
        )
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    on = [name for name, value in read_object(path).items() if name.startswith("pooling_mode_") and value is True]
    if len(on) != 1 or on[0] not in names:
        raise InputError(
            tr(
                "{path}: pools by {on}; supported are {poolings}",
                path=path,
                on=", ".join(on)[:120] or "nothing",
                poolings=" and ".join(POOLINGS),
            )
        )
    return names[on[0]]


def _max_tokens(folder: Path, shape: EncoderShape) -> int:
    """The longest text it was trained to read, in tokens."""
    longest = shape.n_positions - shape.first_position
    path = folder / "sentence_bert_config.json"
    stated = read_object(path).get("max_seq_length") if path.is_file() else None
    return min(stated, longest) if isinstance(stated, int) and stated > 2 else longest
