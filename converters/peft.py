"""Converts LoRA adapters between PEFT's layout and ours: A and B are transposed, the update stays the same.

PEFT: `base_model.model.<module>.lora_A.weight` (R, D_in), `.lora_B.weight` (D_out, R), `lora_alpha` / `r` (rsLoRA:
/ sqrt(r)). Ours: `<module>.lora_a` (D_in, R), `.lora_b` (R, D_out). What has no exact counterpart is refused by name.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx_loopai  # noqa: F401  # before mlx: on Linux it loads the fast BLAS

# isort: split
import mlx.core as mx
import regex

from converters.json_files import read_object
from converters.quantization import to_mlx
from converters.readers.safetensors_file import read_entries
from converters.readers.torch_file import read_torch_file
from converters.tensors import TensorEntry
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.files import refuse_links_out, whole_folder
from mlx_loopai.language import tr
from mlx_loopai.models.adapter_folder import Adapter, check_free, complete, mlx_config
from mlx_loopai.models.adapters import ASSUMED_BLOCKS, CONFIG_FILE, save_arrays, write_settings
from mlx_loopai.models.architectures import ARCHITECTURES, Architecture
from mlx_loopai.models.lora import lora_scale
from mlx_loopai.models.model_card import model_card
from mlx_loopai.models.module_names import split_module

WEIGHTS_FILE = "adapter_model.safetensors"
TORCH_FILE = "adapter_model.bin"
_PREFIX = "base_model.model."
# Each changes what is computed, and may not show in the tensors' names.
_REFUSED = {
    "use_dora": "DoRA scales the rows of the base",
    "fan_in_fan_out": "the base keeps its matrices transposed",
    "modules_to_save": "whole modules were trained",
    "trainable_token_indices": "rows of the embedding were trained",
    "lora_bias": "B has a bias",
    "use_qalora": "the input is pooled first",
    "use_bdlora": "the factors are block-diagonal",
    "alora_invocation_tokens": "an aLoRA works only after its invocation tokens",
    "layer_replication": "the base's blocks are repeated",
    "target_parameters": "parameters other than linear layers were trained",
    "arrow_config": "a router mixes several adapters",
    "kasa_config": "the base was cut to a lower rank",
    "monteclora_config": "the factors are drawn at random",
    "velora_config": "the input is compressed first",
}
# Initialisations of A and B that leave the base unchanged, so that the update is still A B.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_KNOWN = frozenset(
    "alpha_pattern auto_mapping base_model_name_or_path bias corda_config ensure_weight_tying eva_config"
    " exclude_modules inference_mode init_lora_weights layers_pattern layers_to_transform loftq_config"
    " lora_alpha lora_dropout lora_ga_config megatron_config megatron_core peft_type peft_version"
    " qalora_group_size r rank_pattern revision runtime_config target_modules task_type use_rslora".split()
)
_MAX_PATTERN = 500
# Seconds for the matching of all patterns: they come from a stranger and may be made to backtrack for ever.
_PATTERNS_S = 2.0
# Where transformers' models have their blocks, and where mlx-lm's have them.
_MLX_BLOCKS = {
    "gpt_neox.layers": "model.h",
    "model.language_model.layers": "language_model.model.layers",
    "model.layers": "model.layers",
}
_BLOCK = re.compile(rf"({'|'.join(map(re.escape, _MLX_BLOCKS))})\.\d")
_NAME = re.compile(re.escape(_PREFIX) + r"(.+)\.lora_([AB])\.(?:[\w-]+\.)?weight")


def mlx_module(name: str, architecture: Architecture | None = None) -> str:
    """A module's Hugging Face name as mlx-lm has it; without an `architecture`, as the name itself tells."""
    match = _BLOCK.match(name)
    if match is None:
        return name
    blocks = _MLX_BLOCKS[match[1]] if architecture is None else architecture.mlx_blocks
    return f"{blocks}{name[match.end(1) :]}"


def hf_module(name: str) -> str:
    """The inverse of `mlx_module`, for a text-only model."""
    for each in ARCHITECTURES.values():
        if name.startswith(f"{each.mlx_blocks}."):
            return name.replace(each.mlx_blocks, f"{each.prefix}.layers", 1)
    return name


def read_peft(folder: Path, n_blocks: int | None = None, architecture: Architecture | None = None) -> Adapter:
    """The adapter in a PEFT folder. `n_blocks`: of the model; needed when its last blocks have no adapter.

    `architecture`: the model's, where its modules have other names in mlx-lm than in a text model of transformers.
    Smaller ranks are padded with zeros to the largest, and where a module has its own scale, B is multiplied by it.

    Raises:
        InputError: no PEFT folder, or one with parts that a LoRA on linear layers cannot express (all are named).
    """
    refuse_links_out(folder, (CONFIG_FILE, WEIGHTS_FILE, TORCH_FILE))
    config = read_object(folder / CONFIG_FILE)
    _refuse_unsupported(config, folder)
    if config.get("layers_to_transform") is not None and n_blocks is None:
        raise InputError(
            tr(
                "{folder}: adapts the blocks {config} only; give the model with `base`, so that they are counted "
                "from the right end",
                folder=folder,
                config=config["layers_to_transform"],
            )
        )
    factors = _factors(folder, architecture)
    rank = max(a.shape[1] for a, _ in factors.values())
    rslora, alpha = bool(config.get("use_rslora", False)), config["lora_alpha"]
    scale = lora_scale(rank, alpha, rslora)
    alphas = _own_alphas(factors, config, folder / CONFIG_FILE)
    fitted = {
        name: _fitted(pair, lora_scale(pair[0].shape[1], alphas[name], rslora), rank, scale)
        for name, pair in factors.items()
    }
    notes: dict[str, Any] = {}
    if config.get("base_model_name_or_path"):
        notes["base"] = config["base_model_name_or_path"]
    if n_blocks is None:
        # Nothing in the folder says how many blocks the model has; `load_adapter` compares.
        notes[ASSUMED_BLOCKS] = 1 + max(split_module(name)[0] for name in factors)
    dropout = float(config.get("lora_dropout") or 0.0)
    return Adapter(
        complete(fitted, n_blocks), rank=rank, alpha=float(alpha), rslora=rslora, dropout=dropout, notes=notes
    )


def unused_fields(folder: Path) -> tuple[str, ...]:
    """The fields of the folder's adapter_config.json that have a value but are unknown here, and so are ignored."""
    config = read_object(folder / CONFIG_FILE)
    return tuple(sorted(key for key, value in config.items() if value and key not in _KNOWN and key not in _REFUSED))


def _refuse_unsupported(config: Mapping[str, Any], folder: Path) -> None:
    problems = []
    if config.get("peft_type") != "LORA":
        problems.append(tr("peft_type is {kind!r}, only LORA is supported", kind=config.get("peft_type")))
    problems += [f"{key} is {config[key]!r}: {why}" for key, why in _REFUSED.items() if config.get(key)]
    start = config.get("init_lora_weights")
    if not any(start is plain or (isinstance(start, str) and start == plain) for plain in _PLAIN_STARTS):
        problems.append(
            tr(
                "init_lora_weights is {start!r}: the update is relative to a base that was changed at the start; save "
                "it from PEFT with path_initial_model_for_weight_conversion",
                start=str(start)[:40],
            )
        )
    if config.get("bias", "none") != "none":
        problems.append(tr("bias is {bias!r}: trained biases cannot be expressed", bias=config["bias"]))
    for key in ("r", "lora_alpha"):
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            problems.append(tr("{key} is {value!r} where a positive number is needed", key=key, value=value))
    if problems:
        raise InputError(f"{folder / CONFIG_FILE}: {all_problems(problem[:300] for problem in problems)}")


def _factors(folder: Path, architecture: Architecture | None) -> dict[str, tuple[mx.array, mx.array]]:
    halves: dict[str, dict[str, mx.array]] = {}
    unknown = []
    for entry in _entries(folder):
        match = _NAME.fullmatch(entry.name)
        if match is None or len(entry.shape) != 2:
            unknown.append(entry.name[:120])
            continue
        halves.setdefault(mlx_module(match[1], architecture), {})[match[2]] = to_mlx(entry.load(), entry.dtype)
    wrong = [name for name, half in halves.items() if len(half) != 2 or half["A"].shape[0] != half["B"].shape[1]]
    if unknown or wrong or not halves:
        names = all_problems([*unknown, *wrong], 4) or "nothing"
        raise InputError(
            tr(
                "{folder}: holds {names}, which is not LoRA of a linear layer (DoRA, embeddings and saved modules "
                "are not supported); train without them",
                folder=folder,
                names=names,
            )
        )
    ordered = sorted(halves, key=split_module)
    return {name: (_turned(halves[name]["A"]), _turned(halves[name]["B"])) for name in ordered}


def _entries(folder: Path) -> list[TensorEntry]:
    if (folder / WEIGHTS_FILE).is_file():
        return read_entries(folder / WEIGHTS_FILE)
    if (folder / TORCH_FILE).is_file():
        return read_torch_file(folder / TORCH_FILE)
    raise InputError(
        tr(
            "{folder}: holds no {weights_file}; give the folder that PEFT's save_pretrained wrote",
            folder=folder,
            weights_file=WEIGHTS_FILE,
        )
    )


def _turned(array: mx.array) -> mx.array:
    return mx.contiguous(array.T)


def _own_alphas(names: Iterable[str], config: Mapping[str, Any], where: Path) -> dict[str, float]:
    """The alpha of each module: that of the first pattern which matches its Hugging Face name or the end of it.

    Source: PEFT, utils/other.py, get_pattern_key.
    """
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or not all(_is_positive(value) for value in patterns.values()):
        raise InputError(
            tr(
                "{where}: alpha_pattern is {patterns} where positive numbers by name are needed",
                where=where,
                patterns=str(patterns)[:80],
            )
        )
    deadline = time.monotonic() + _PATTERNS_S
    compiled = [(_compiled(pattern, where), pattern, float(value)) for pattern, value in patterns.items()]
    alphas = {}
    for name in names:
        theirs = hf_module(name)
        matching = (value for found, text, value in compiled if _matches(found, text, theirs, deadline, where))
        alphas[name] = next(matching, float(config["lora_alpha"]))
    return alphas


def _compiled(pattern: str, where: Path) -> Any:
    """None for a plain name, which needs no expression."""
    if re.fullmatch(r"[\w.]+", pattern):
        return None
    if len(pattern) > _MAX_PATTERN:
        raise InputError(
            tr("{where}: a name in alpha_pattern has {n_pattern} characters", where=where, n_pattern=len(pattern))
        )
    try:
        return regex.compile(rf"(.*\.)?({pattern})$")
    except (regex.error, RecursionError, OverflowError) as error:
        raise InputError(
            tr(
                "{where}: alpha_pattern's {pattern!r} is not a regular expression ({error})",
                where=where,
                pattern=pattern[:80],
                error=error,
            )
        ) from None


def _matches(found: Any, text: str, name: str, deadline: float, where: Path) -> bool:
    if found is None:
        return name == text or name.endswith(f".{text}")
    try:
        return found.match(name, timeout=max(1e-3, deadline - time.monotonic())) is not None
    except TimeoutError:
        raise InputError(
            tr(
                "{where}: alpha_pattern's {text!r} takes too long to match; write the modules' names",
                where=where,
                text=text[:80],
            )
        ) from None


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _fitted(pair: tuple[mx.array, mx.array], own: float, rank: int, scale: float) -> tuple[mx.array, mx.array]:
    a, b = pair
    missing = rank - a.shape[1]
    if missing:
        a, b = mx.pad(a, ((0, 0), (0, missing))), mx.pad(b, ((0, missing), (0, 0)))
    return a, b if own == scale else (b.astype(mx.float32) * (own / scale))


def write_peft(folder: Path, adapter: Adapter, base: str | None = None) -> None:
    """Write `adapter` as PEFT's save_pretrained does, whole or not at all.

    `base`: the value of `base_model_name_or_path`.

    Raises:
        InputError: something is at `folder` already, or the adapter is for pictures only.
        OSError: the folder cannot be written.
    """
    adapter.check_scope()
    check_free(folder)
    arrays = {}
    for name, (a, b) in adapter.factors.items():
        arrays[f"{_PREFIX}{hf_module(name)}.lora_A.weight"] = _turned(a)
        arrays[f"{_PREFIX}{hf_module(name)}.lora_B.weight"] = _turned(b)
    named = adapter if base is None else replace(adapter, notes=adapter.notes | {"base": base})
    with whole_folder(folder) as temporary:
        save_arrays(temporary / WEIGHTS_FILE, arrays, {"format": "pt"})
        write_settings(temporary, _config(named), model_card(mlx_config(named), "peft"))


def _config(adapter: Adapter) -> dict[str, Any]:
    first = min(split_module(name)[0] for name in adapter.factors)
    blocks = list(range(first, first + adapter.n_layers)) if first else None
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.notes.get("base"),
        "inference_mode": True,
        "r": adapter.rank,
        # A whole number where it is one: PEFT's own type.
        "lora_alpha": int(adapter.alpha) if adapter.alpha.is_integer() else adapter.alpha,
        # Modules of a rank of their own keep the one scale of all by an alpha of their own.
        "rank_pattern": {hf_module(name): rank for name, rank in adapter.ranks.items()},
        "alpha_pattern": {
            hf_module(name): adapter.scale / lora_scale(rank, 1.0, adapter.rslora)
            for name, rank in adapter.ranks.items()
        },
        "use_rslora": adapter.rslora,
        "use_dora": False,
        "lora_dropout": adapter.dropout,
        "target_modules": list(adapter.targets),
        "layers_to_transform": blocks,
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
    }
