"""The sizes of a decoder, read from its config.json alone, so that memory can be planned before weights are loaded.

Pure: no mlx, no network.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.language import tr
from mlx_loopai.models.architectures import (
    ARCHITECTURES,
    Architecture,
    Block,
    DeltaHeads,
    Experts,
    Kind,
    Linear,
    architecture_of,
    text_part,
)
from mlx_loopai.models.configuration import refuse_foreign_quantization
from mlx_loopai.models.module_names import target_of

# Wide enough for every released model; a larger number is a damaged file.
_MAX_SIZE = 1 << 31
_MAX_LAYERS = 10_000


@dataclass(frozen=True)
class Quantization:
    """How a quantised checkpoint stores its matrices: `bits` a weight, one scale (and offset) per `group_size`."""

    bits: int
    group_size: int
    mode: str = "affine"

    @property
    def bits_per_weight(self) -> float:
        """Stored bits a weight, scales included: affine keeps a 16-bit scale and offset per group, mx* one byte."""
        overhead = 32 if self.mode == "affine" else 8
        return self.bits + overhead / self.group_size


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder-only transformer. `architecture` is config.json's `model_type`.

    attention_bias, mlp_bias: as in config.json; the architecture decides which linears then have a bias. kinds: kind of
    each block in order, empty where all are alike. delta: the heads of linear attention, experts: the sizes of experts;
    None where no block has them.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    intermediate_size: int
    tied_head: bool
    attention_bias: bool = False
    mlp_bias: bool = False
    quantization: Quantization | None = None
    kinds: tuple[Kind, ...] = ()
    delta: DeltaHeads | None = None
    experts: Experts | None = None

    @staticmethod
    def from_config(config: Mapping[str, Any], where: str = "config.json") -> ModelShape:
        """The shape that a Hugging Face or mlx-lm configuration describes. `where` names it in errors.

        Raises: InputError with every field that is missing or absurd, or for an unsupported architecture.
        """
        config = text_part(config)
        architecture = architecture_of(config.get("model_type"), where)
        refuse_foreign_quantization(config, where)
        sizes = _sizes(config, architecture, where)
        return ModelShape(
            architecture=architecture.model_type,
            **sizes,
            tied_head=bool(config.get("tie_word_embeddings", architecture.tied_by_default)),
            attention_bias=bool(config.get("attention_bias", False)),
            mlp_bias=bool(config.get("mlp_bias", False)),
            quantization=_quantization(config, where),
            kinds=architecture.kinds(config) if architecture.kinds else (),
            delta=architecture.delta_heads(config) if architecture.delta_heads else None,
            experts=architecture.experts(config) if architecture.experts else None,
        )

    @staticmethod
    def from_file(path: Path) -> ModelShape:
        """The shape in one config.json. Raises: InputError when it is missing, broken or unsupported."""
        return ModelShape.from_config(*read_config(path))

    @staticmethod
    def from_folder(path: Path) -> ModelShape:
        """The shape of a model folder. Raises: InputError when config.json is missing, broken or unsupported."""
        return ModelShape.from_file(path if path.is_dir() else path / "config.json")

    @property
    def attention_size(self) -> int:
        """Width of the queries and of the attention output, n_heads * head_dim."""
        return self.n_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of the keys (and of the values), n_kv_heads * head_dim."""
        return self.n_kv_heads * self.head_dim

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The tensors of each block."""
        build = ARCHITECTURES[self.architecture].block
        full: Kind = "full"
        kinds = self.kinds or (full,) * self.n_layers
        by_kind = {kind: build(self, kind) for kind in set(kinds)}
        return tuple(by_kind[kind] for kind in kinds)

    @property
    def attending_blocks(self) -> int:
        """How many blocks have softmax attention, and so keep keys and values of what they see."""
        return self.n_layers - self.kinds.count("linear")

    @property
    def matrix_parameters(self) -> int:
        """Entries of all matrices (linears, embedding, separate head): what quantisation shrinks."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_head else 2)
        return embeddings + sum(block.matrix_parameters for block in self.blocks)

    @property
    def vector_parameters(self) -> int:
        """Entries of all norms, biases and other small tensors."""
        last = self.hidden_size * len(ARCHITECTURES[self.architecture].norm_kinds)
        return last + sum(block.vector_parameters for block in self.blocks)

    @property
    def parameters(self) -> int:
        """Entries of all weights of the model."""
        return self.matrix_parameters + self.vector_parameters

    def lora_targets(self, targets: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The linears that `targets` names, all that adapters are put on when it is empty: last parts of their names.

        Raises: InputError for a name that no block has, or that is never adapted.
        """
        known = tuple(dict.fromkeys(target_of(name) for block in self.blocks for name in self._adaptable(block)))
        unknown = [name for name in targets if name not in known]
        if unknown:
            raise InputError(
                tr(
                    "lora.targets: {architecture} has no {unknown}; known: {known}",
                    architecture=self.architecture,
                    unknown=", ".join(unknown),
                    known=", ".join(known),
                )
            )
        return targets or tuple(name for name in known if "." not in name)

    def lora_layers(self, layers: int = 0) -> int:
        """How many blocks, counted from the last, get an adapter; 0 means all."""
        return min(layers, self.n_layers) or self.n_layers

    def adapted(self, targets: tuple[str, ...] = (), layers: int = 0) -> tuple[dict[str, Linear], ...]:
        """The linears with an adapter, by name, of each of the last `layers` blocks (0: all): those of `lora_targets`.

        Raises: InputError for an unknown target.
        """
        wanted = set(self.lora_targets(targets))
        blocks = self.blocks[self.n_layers - self.lora_layers(layers) :]
        return tuple(
            {name: linear for name, linear in self._adaptable(block).items() if target_of(name) in wanted}
            for block in blocks
        )

    def lora_parameters(self, rank: int, targets: tuple[str, ...] = (), layers: int = 0) -> int:
        """Trainable entries of LoRA of `rank` on `targets` (empty: all linears) of the last `layers` blocks (0: all).

        Raises: InputError for an unknown target.
        """
        linears = self._adapted_linears(targets, layers)
        return rank * sum((linear.out + linear.into) * max(1, linear.experts) for linear in linears)

    def lora_modules(self, targets: tuple[str, ...] = (), layers: int = 0) -> int:
        """How many linears get an adapter. Raises: InputError for an unknown target."""
        return len(self._adapted_linears(targets, layers))

    def lora_outputs(self, targets: tuple[str, ...] = (), layers: int = 0) -> int:
        """Sum of D_out over the adapted linears. Raises: InputError for an unknown target."""
        return sum(linear.out for linear in self._adapted_linears(targets, layers))

    def lora_matrices(self, targets: tuple[str, ...] = (), layers: int = 0) -> int:
        """Entries of the matrices that have an adapter. Raises: InputError for an unknown target."""
        return sum(linear.out * linear.into for linear in self._adapted_linears(targets, layers))

    def lora_directions(self, share: float, targets: tuple[str, ...] = (), layers: int = 0) -> int:
        """Entries of the left and right singular vectors of that share of each adapted linear's rank, rounded up.

        Raises: InputError for an unknown target.
        """
        linears = self._adapted_linears(targets, layers)
        return sum(math.ceil(share * min(linear.out, linear.into)) * (linear.out + linear.into) for linear in linears)

    def lora_decompositions(self, targets: tuple[str, ...] = (), layers: int = 0) -> int:
        """Operations of the product of each adapted linear's matrix with itself, and of its eigenvectors.

        A symmetric matrix of M rows takes about 9 M^3. Raises: InputError for an unknown target.
        """
        sizes = [(min(one.out, one.into), max(one.out, one.into)) for one in self._adapted_linears(targets, layers)]
        return sum(2 * small**2 * large + 9 * small**3 for small, large in sizes)

    def lora_inputs(self, targets: tuple[str, ...] = (), layers: int = 0) -> int:
        """Sum of D_in over the distinct inputs of the adapted linears: q, k and v read the same, gate and up too.

        Raises: InputError for an unknown target.
        """
        blocks = self.adapted(targets, layers)
        return sum(sum({linear.reads: linear.into for linear in block.values()}.values()) for block in blocks)

    def _adaptable(self, block: Block) -> dict[str, Linear]:
        """The linears that adapters may be put on: no router; experts on request."""
        frozen = ARCHITECTURES[self.architecture].never_adapted
        return {name: linear for name, linear in block.linears.items() if name not in frozen}

    def _adapted_linears(self, targets: tuple[str, ...], layers: int) -> list[Linear]:
        return [linear for block in self.adapted(targets, layers) for linear in block.values()]


def read_config(path: Path) -> tuple[dict[str, Any], str]:
    """(the values, the file's name for errors) of a config.json, or of the one in a model folder.

    Raises: InputError when it is missing or broken.
    """
    if path.is_dir():
        if not (path / "config.json").exists():
            raise InputError(
                tr("{path}: no config.json in this folder; convert the model first (mlx-loopai convert)", path=path)
            )
        path = path / "config.json"
    if path.suffix.lower() == ".gguf":
        raise InputError(
            tr("{path}: a GGUF file, not a model folder; convert it first: mlx-loopai convert {path}", path=path)
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(tr("{path}: no such file; give a model folder that holds a config.json", path=path)) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            tr("{path}: not valid JSON ({error}); download or convert the model again", path=path, error=error)
        ) from None
    except OSError as error:
        raise InputError(
            tr(
                "{path}: cannot be read ({strerror}); check the path and its permissions",
                path=path,
                strerror=error.strerror,
            )
        ) from None
    if not isinstance(config, dict):
        raise InputError(
            tr(
                "{path}: holds a {name} where an object is needed; it is not a model's config.json",
                path=path,
                name=type(config).__name__,
            )
        )
    return config, str(path)


def _sizes(config: Mapping[str, Any], architecture: Architecture, where: str) -> dict[str, int]:
    names = {
        "vocab_size": "vocab_size",
        "hidden_size": "hidden_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "intermediate_size": "intermediate_size",
    }
    found = {field: config.get(name) for field, name in names.items()}
    # Where every MLP is an expert, the configuration has no other width.
    if found["intermediate_size"] is None:
        found["intermediate_size"] = config.get("moe_intermediate_size")
    # Left out (or null) by models without grouped queries, and by those whose heads split the hidden state evenly.
    optional = {"n_kv_heads": "num_key_value_heads", "head_dim": "head_dim"}
    found |= {field: config[name] for field, name in optional.items() if config.get(name) is not None}
    problems = [
        f"{names.get(field, optional.get(field))} is {value!r} where a positive whole number is needed"
        for field, value in found.items()
        if isinstance(value, bool)
        or not isinstance(value, int)
        or not 0 < value < (_MAX_LAYERS if field == "n_layers" else _MAX_SIZE)
    ]
    if problems:
        raise InputError(f"{where}: {all_problems(problems)}")
    return _with_heads({field: int(value) for field, value in found.items() if value is not None}, architecture, where)


def _with_heads(sizes: dict[str, int], architecture: Architecture, where: str) -> dict[str, int]:
    heads, hidden = sizes["n_heads"], sizes["hidden_size"]
    sizes.setdefault("n_kv_heads", heads)
    if "head_dim" not in sizes and architecture.head_dim is None and hidden % heads:
        raise InputError(
            tr(
                "{where}: hidden_size {hidden} does not divide by num_attention_heads {heads}",
                where=where,
                hidden=hidden,
                heads=heads,
            )
        )
    if heads % sizes["n_kv_heads"]:
        raise InputError(
            tr(
                "{where}: num_attention_heads {heads} does not divide by num_key_value_heads {n_kv_heads}",
                where=where,
                heads=heads,
                n_kv_heads=sizes["n_kv_heads"],
            )
        )
    sizes.setdefault("head_dim", architecture.head_dim or hidden // heads)
    return sizes


def _quantization(config: Mapping[str, Any], where: str) -> Quantization | None:
    found = config.get("quantization")
    if not found:
        return None
    if not isinstance(found, dict) or not all(isinstance(found.get(key), int) for key in ("bits", "group_size")):
        raise InputError(
            tr(
                "{where}: quantization is {found!r} where bits and group_size are needed; convert the model again",
                where=where,
                found=found,
            )
        )
    if not (0 < found["bits"] <= 8 and 0 < found["group_size"] <= _MAX_SIZE):
        raise InputError(
            tr(
                "{where}: quantization to {bits} bits in groups of {group_size} is impossible",
                where=where,
                bits=found["bits"],
                group_size=found["group_size"],
            )
        )
    return Quantization(found["bits"], found["group_size"], str(found.get("mode", "affine")))
