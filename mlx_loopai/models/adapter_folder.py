"""An adapter as a plain value: its arrays and configuration, apart from any model.

Merging, converting, scaling and inspecting work on this value; `models/adapters.py` puts an adapter on a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.files import whole_folder
from mlx_loopai.language import tr
from mlx_loopai.models.adapters import (
    ADAPTER_SCOPE,
    RANKS,
    WEIGHTS_FILE,
    adapter_options,
    own_ranks,
    read_adapter_config,
    save_arrays,
    write_settings,
)
from mlx_loopai.models.lora import lora_scale
from mlx_loopai.models.model_card import model_card
from mlx_loopai.models.module_names import EXPERTS, blocks_of, split_module
from mlx_loopai.models.vision.projector import PROJECTOR

# Where the blocks of a model differ, each has one of these two kinds of attention.
_MIXERS = {"self_attn", "linear_attn"}


@dataclass(frozen=True)
class Adapter:
    """`factors` holds (A, B) by module, A (D_in, R) and B (R, D_out); the update is x A B times the scale.

    R is `rank`, or a module's own (`ranks`); the scale is the same for all.
    `notes` are our own keys of adapter_config.json beside the LoRA options (base_hash, recipe, figures).
    """

    factors: dict[str, tuple[mx.array, mx.array]]
    rank: int
    alpha: float
    rslora: bool = False
    dropout: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def scale(self) -> float:
        return lora_scale(self.rank, self.alpha, self.rslora)

    @property
    def ranks(self) -> dict[str, int]:
        """By module, the ranks that are not `rank`."""
        return {name: a.shape[1] for name, (a, _) in self.factors.items() if a.shape[1] != self.rank}

    @property
    def base_hash(self) -> str | None:
        """The hash of the base it was trained on; None when the folder does not record it."""
        return self.notes.get("base_hash") or None

    def check_scope(self) -> None:
        """Refuse an adapter for requests with pictures only, since what is made of it would answer every request.

        Raises: InputError.
        """
        if self.notes.get(ADAPTER_SCOPE) == "image":
            raise InputError(
                tr(
                    "the adapter answers requests with pictures only (vision.adapter_scope), which is lost when it is"
                    " merged, fused or exported; use it as it is, with its base"
                )
            )

    @property
    def n_layers(self) -> int:
        """The number of blocks, counted from the last, that have adapters."""
        numbers = [split_module(name)[0] for name in self.factors]
        return max(numbers) - min(numbers) + 1

    @property
    def last_block(self) -> int:
        """The number of the last block that has adapters."""
        return max(split_module(name)[0] for name in self.factors)

    @property
    def keys(self) -> tuple[str, ...]:
        """The adapted modules' names within a block, such as `self_attn.q_proj`."""
        return tuple(sorted({split_module(name)[1] for name in self.factors}))

    @property
    def targets(self) -> tuple[str, ...]:
        """The last parts of `keys`, as `lora.targets` names them."""
        return tuple(sorted({key.rsplit(".", 1)[-1] for key in self.keys}))

    def delta_norm(self, module: str) -> float:
        """Frobenius norm of the scaled update of `module`, without building it."""
        a, b = (factor.astype(mx.float32) for factor in self.factors[module])
        squared = ((a.T @ a) * (b @ b.T)).sum().item()
        return self.scale * math.sqrt(max(squared, 0.0))


def complete(factors: Mapping[str, tuple[mx.array, mx.array]], n_blocks: int | None) -> dict[str, Any]:
    """`factors` with zeros where a block lacks a module that another has, in block order.

    mlx-lm's layout has one set of names for all adapted blocks, which are the last ones of a model; factors of zeros
    change nothing. n_blocks: how many blocks the model has; None: the last adapted block is the model's last.
    """
    shapes = {split_module(name)[1]: pair for name, pair in factors.items()}
    numbers = [split_module(name)[0] for name in factors]
    last = (n_blocks or max(numbers) + 1) - 1
    if last < max(numbers):
        raise InputError(
            tr(
                "the adapter has an update of block {block} but the model only {n_blocks} blocks",
                block=max(numbers),
                n_blocks=n_blocks,
            )
        )
    blocks, mixers = blocks_of(next(iter(factors))), _mixers(factors)
    hybrid = len(set().union(*mixers.values())) > 1
    found: dict[str, Any] = {}
    for number in range(min(numbers), last + 1):
        own = mixers.get(number, set())
        if hybrid and len(own) != 1:
            raise InputError(
                tr(
                    "block {number} has no adapter on its attention, so its kind is unknown; adapt all blocks",
                    number=number,
                )
            )
        for key in sorted(shapes):
            if hybrid and _mixer(key) - own:
                continue
            name = f"{blocks}.{number}.{key}"
            a, b = shapes[key]
            found[name] = factors.get(name, (mx.zeros_like(a), mx.zeros_like(b)))
    return found


def _mixer(key: str) -> set[str]:
    return {key.split(".", 1)[0]} & _MIXERS


def _mixers(factors: Mapping[str, Any]) -> dict[int, set[str]]:
    """By block, which kind of attention has adapters there; blocks of a hybrid have one kind each."""
    found: dict[int, set[str]] = {}
    for number, key in map(split_module, factors):
        found.setdefault(number, set()).update(_mixer(key))
    return found


def read_adapter(folder: Path) -> Adapter:
    """The adapter in `folder`, ours or mlx-lm's. Raises: InputError when the folder holds none, or a broken one."""
    config = read_adapter_config(folder)
    options = adapter_options(folder, config)
    if options.dora:
        raise InputError(
            tr(
                "{path}: a DoRA adapter has no update apart from its base; merge, fuse and export take LoRA",
                path=folder,
            )
        )
    try:
        arrays = mx.load(str(folder / WEIGHTS_FILE))
    except (RuntimeError, OSError, ValueError) as error:
        raise InputError(
            tr("{path}: cannot be read: {error}", path=folder / WEIGHTS_FILE, error=" ".join(str(error).split()))
        ) from None
    if any(name.startswith(f"{PROJECTOR}.") for name in arrays):
        raise InputError(
            tr(
                "{path}: brings a projector for pictures, which is not merged, fused or exported; use it as it is, with"
                " its base",
                path=folder,
            )
        )
    if any(f".{EXPERTS}." in name for name in arrays):
        raise InputError(
            tr("{path}: has updates of experts, which are not merged, fused or exported; use it as it is", path=folder)
        )
    factors = _paired(arrays, options.rank, own_ranks(folder, config), folder)
    notes = {key: value for key, value in (config.get("mlx_loopai") or {}).items() if key not in ("lora", RANKS)}
    return Adapter(
        factors, rank=options.rank, alpha=options.alpha, rslora=options.rslora, dropout=options.dropout, notes=notes
    )


def _paired(
    arrays: Mapping[str, mx.array], usual: int, ranks: Mapping[str, int], folder: Path
) -> dict[str, tuple[mx.array, mx.array]]:
    problems = [
        tr("{name} is neither lora_a nor lora_b", name=name[:80])
        for name in arrays
        if not name.endswith((".lora_a", ".lora_b"))
    ]
    factors = {}
    for module in sorted({name.rpartition(".")[0] for name in arrays}, key=_in_order):
        a, b = arrays.get(f"{module}.lora_a"), arrays.get(f"{module}.lora_b")
        rank = ranks.get(module, usual)
        if a is None or b is None:
            problems.append(tr("{module} has only one of lora_a and lora_b", module=module[:80]))
        elif a.ndim != 2 or b.ndim != 2 or a.shape[1] != rank or b.shape[0] != rank:
            problems.append(
                tr(
                    "{module} has the shapes {shape_a} and {shape_b}, which is not rank {rank}",
                    module=module[:80],
                    shape_a=a.shape,
                    shape_b=b.shape,
                    rank=rank,
                )
            )
        else:
            split_module(module)
            factors[module] = (a, b)
    if problems or not factors:
        raise InputError(f"{folder / WEIGHTS_FILE}: {all_problems(problems, 4) or 'holds no adapter'}")
    return factors


def _in_order(name: str) -> list[str]:
    return [part.zfill(6) for part in name.split(".")]


def write_adapter(folder: Path, adapter: Adapter) -> None:
    """Write `adapter`, with its model card, whole or not at all; both mlx-lm and `load_adapter` read it.

    Raises: InputError when something is at `folder` already; OSError when it cannot be written.
    """
    check_free(folder)
    config = mlx_config(adapter)
    with whole_folder(folder) as temporary:
        arrays = {
            f"{name}.lora_{part}": factor
            for name, pair in adapter.factors.items()
            for part, factor in zip("ab", pair, strict=True)
        }
        save_arrays(temporary / WEIGHTS_FILE, arrays, {"format": "mlx"})
        write_settings(temporary, config, model_card(config))


def check_free(folder: Path) -> None:
    """Raises: InputError when something exists at `folder`."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            tr("{path}: is already there and never overwritten; choose another `out` or remove it", path=folder)
        )


def mlx_config(adapter: Adapter) -> dict[str, Any]:
    """adapter_config.json in mlx-lm's layout, with our own keys."""
    options = {
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "rslora": adapter.rslora,
        "dropout": adapter.dropout,
        "targets": list(adapter.targets),
        "layers": adapter.n_layers,
    }
    return {
        "fine_tune_type": "lora",
        "num_layers": adapter.n_layers,
        "lora_parameters": {
            "rank": adapter.rank,
            "scale": adapter.scale,
            "dropout": adapter.dropout,
            "keys": list(adapter.keys),
        },
        "mlx_loopai": {"lora": options, **({RANKS: adapter.ranks} if adapter.ranks else {}), **adapter.notes},
    }


def with_one_rank(adapter: Adapter) -> Adapter:
    """The same update with every module padded with zeros to the largest rank, since mlx-lm has one rank for all."""
    rank = max(a.shape[1] for a, _ in adapter.factors.values())
    factors = {}
    for name, (a, b) in adapter.factors.items():
        missing = rank - a.shape[1]
        factors[name] = (mx.pad(a, ((0, 0), (0, missing))), mx.pad(b, ((0, missing), (0, 0)))) if missing else (a, b)
    return replace(adapter, factors=factors, rank=rank, alpha=adapter.scale / lora_scale(rank, 1.0, adapter.rslora))


def scaled(adapter: Adapter, factor: float, per_layer: Callable[[int], float] = lambda block: 1.0) -> Adapter:
    """The adapter with its update multiplied by `factor`, and in block n by `per_layer(n)` as well.

    A common factor goes into alpha, so the arrays stay what they are.
    """
    factors = {}
    for name, (a, b) in adapter.factors.items():
        own = per_layer(split_module(name)[0])
        factors[name] = (a, b if own == 1.0 else b * own)
    return replace(adapter, factors=factors, alpha=adapter.alpha * factor)
