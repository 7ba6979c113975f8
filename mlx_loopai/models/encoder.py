"""A text encoder: BERT, RoBERTa and XLM-R, as sentence-transformers publishes them, in MLX.

Such encoders are bidirectional and post-norm, so mlx-lm's decoders cannot run them. `mlx-loopai convert` writes the
folder that is opened here, with what sentence-transformers keeps in files of its own: the pooling, and the most tokens
that are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn

from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr

ENCODERS = ("bert", "roberta", "xlm-roberta")
POOLINGS = ("mean", "cls")
# The key of config.json for what sentence-transformers keeps in other files.
OWN_FIELD = "mlx_loopai"
_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
_MAX_SIZE = 1 << 31


@dataclass(frozen=True)
class EncoderShape:
    """Sizes of an encoder. `first_position`: the row of the position table that a text's first token gets."""

    vocab_size: int
    hidden_size: int
    n_layers: int
    n_heads: int
    intermediate_size: int
    n_positions: int
    n_types: int
    first_position: int
    norm_eps: float

    @staticmethod
    def from_config(config: Mapping[str, Any], where: str) -> EncoderShape:
        """The sizes in a config.json.

        Raises: InputError with every field that is missing, absurd or asks for what is not computed here.
        """
        sizes: list[Any] = [config.get(name) for name in _SIZES]
        problems = [
            f"{name} is {str(size)[:40]!r} where a positive whole number is needed"
            for name, size in zip(_SIZES, sizes, strict=True)
            if isinstance(size, bool) or not isinstance(size, int) or not 0 < size < _MAX_SIZE
        ]
        if config.get("model_type") not in ENCODERS:
            problems.append(
                tr(
                    "model_type {kind!r} is none of {encoders}",
                    kind=str(config.get("model_type"))[:40],
                    encoders=", ".join(ENCODERS),
                )
            )
        if config.get("hidden_act", "gelu") != "gelu":
            problems.append(
                tr("hidden_act {hidden_act!r} is not supported; gelu is", hidden_act=str(config["hidden_act"])[:40])
            )
        if config.get("position_embedding_type", "absolute") != "absolute":
            problems.append(
                tr(
                    "position_embedding_type {position_embedding_type!r} is not supported",
                    position_embedding_type=str(config["position_embedding_type"])[:40],
                )
            )
        eps, pad = config.get("layer_norm_eps", 1e-12), config.get("pad_token_id", 0)
        if not isinstance(eps, float) or not 0 < eps < 1:
            problems.append(tr("layer_norm_eps is {eps!r} where a small positive number is needed", eps=str(eps)[:40]))
        if isinstance(pad, bool) or not isinstance(pad, int) or pad < 0:
            problems.append(tr("pad_token_id is {pad!r} where a token id is needed", pad=str(pad)[:40]))
        if problems:
            raise InputError(f"{where}: {all_problems(problems)}")
        # RoBERTa counts positions from after the row that its padding token has.
        first = 0 if config["model_type"] == "bert" else pad + 1
        shape = EncoderShape(*[*sizes, first, eps])
        if shape.hidden_size % shape.n_heads or first >= shape.n_positions:
            raise InputError(
                tr("{where}: hidden_size, heads or positions do not fit each other; get a fresh copy", where=where)
            )
        return shape

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter, as MLX saves them."""
        hidden, inner = self.hidden_size, self.intermediate_size
        tables = {"words": self.vocab_size, "positions": self.n_positions, "types": self.n_types}
        found: dict[str, tuple[int, ...]] = {f"{name}.weight": (rows, hidden) for name, rows in tables.items()}
        linears = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), (hidden, hidden))
        linears |= {"up_proj": (inner, hidden), "down_proj": (hidden, inner)}
        norms = ["norm"]
        for layer in range(self.n_layers):
            for name, shape in linears.items():
                found[f"layers.{layer}.{name}.weight"] = shape
                found[f"layers.{layer}.{name}.bias"] = shape[:1]
            norms += [f"layers.{layer}.attention_norm", f"layers.{layer}.norm"]
        return found | {f"{norm}.{kind}": (hidden,) for norm in norms for kind in ("weight", "bias")}


class EncoderLayer(nn.Module):
    """Attention and MLP, each followed by the norm of its sum with its input."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        hidden, inner = shape.hidden_size, shape.intermediate_size
        self.q_proj, self.k_proj = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.v_proj, self.o_proj = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden, shape.norm_eps)
        self.up_proj, self.down_proj = nn.Linear(hidden, inner), nn.Linear(inner, hidden)
        self.norm = nn.LayerNorm(hidden, shape.norm_eps)
        self._n_heads = shape.n_heads

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        attended = self.attention_norm(x + self.o_proj(self._attend(x, mask)))
        return self.norm(attended + self.down_proj(nn.gelu(self.up_proj(attended))))

    def _attend(self, x: mx.array, mask: mx.array) -> mx.array:
        split = (*x.shape[:2], self._n_heads, -1)
        queries, keys, values = (
            part(x).reshape(split).swapaxes(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        scale = queries.shape[-1] ** -0.5
        heads = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
        return heads.swapaxes(1, 2).reshape(x.shape)


class Encoder(nn.Module):
    """Token ids (B, T), right-padded, and lengths (B,) -> hidden states (B, T, D)."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.words = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.positions = nn.Embedding(shape.n_positions, shape.hidden_size)
        self.types = nn.Embedding(shape.n_types, shape.hidden_size)
        self.norm = nn.LayerNorm(shape.hidden_size, shape.norm_eps)
        self.layers = [EncoderLayer(shape) for _ in range(shape.n_layers)]
        self._first_position = shape.first_position

    def __call__(self, ids: mx.array, lengths: mx.array) -> mx.array:
        # Padding is on the right, so every text counts its positions from the same start; padding is never attended to.
        places = mx.arange(ids.shape[1]) + self._first_position
        x = self.norm(self.words(ids) + self.positions(places) + self.types.weight[0])
        mask = (mx.arange(ids.shape[1])[None] < lengths[:, None])[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        return x


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder ready to run. `max_tokens`: longest text it reads, special tokens included; `pooling`: how its states
    become one vector."""

    model: Encoder
    pooling: Literal["mean", "cls"]
    max_tokens: int
    dims: int


def pool(states: mx.array, lengths: mx.array, pooling: str) -> mx.array:
    """One vector (B, D) of hidden states (B, T, D): the first token's, or the mean over the real tokens."""
    if pooling == "cls":
        return states[:, 0]
    real = (mx.arange(states.shape[1])[None] < lengths[:, None])[..., None]
    return mx.where(real, states, 0).sum(axis=1) / lengths[:, None]


def load_encoder(folder: Path, config: Mapping[str, Any]) -> LoadedEncoder:
    """The encoder in a folder that `mlx-loopai convert` made, in float32; `config` is its config.json.

    Raises: InputError for any other folder.
    """
    shape = EncoderShape.from_config(config, str(folder / "config.json"))
    own = config.get(OWN_FIELD)
    pooling, max_tokens = (own.get("pooling"), own.get("max_tokens")) if isinstance(own, dict) else (None, None)
    longest = shape.n_positions - shape.first_position
    if pooling not in POOLINGS or not isinstance(max_tokens, int) or not 2 < max_tokens <= longest:
        raise InputError(
            tr("{folder}: not an encoder in MLX's form; convert it: mlx-loopai convert {folder}", folder=folder)
        )
    model = Encoder(shape)
    weights: dict[str, mx.array] = {}
    try:
        for file in sorted(folder.glob("model*.safetensors")):
            weights |= mx.load(str(file))
        model.load_weights([(name, array.astype(mx.float32)) for name, array in weights.items()])
    except (ValueError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            tr("{folder}: cannot open the encoder: {reason}; convert it again", folder=folder, reason=reason)
        ) from None
    model.eval()
    mx.eval(model.parameters())
    return LoadedEncoder(model, pooling, max_tokens, shape.hidden_size)


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json, {} when there is none. Raises: InputError when it is not a JSON object."""
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise InputError(tr("{path}: broken JSON ({error}); get a fresh copy", path=path, error=error)) from None
    if not isinstance(found, dict):
        raise InputError(tr("{path}: is not a JSON object; get a fresh copy", path=path))
    return found
