"""Saves and loads adapter folders in mlx-lm's layout, with keys of our own for safe loading and merging."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlx_loopai.config import LoraOptions
from mlx_loopai.errors import InputError, all_problems
from mlx_loopai.files import refuse_links_out, whole_folder, write_whole
from mlx_loopai.language import tr
from mlx_loopai.models.lora import apply_lora, lora_modules, lora_scale
from mlx_loopai.models.model_card import CARD_FILE, model_card, with_retention
from mlx_loopai.models.module_names import blocks_of, split_module, target_of, with_blocks
from mlx_loopai.models.updated_linear import updated_modules
from mlx_loopai.models.vision.projector import PROJECTOR, projector_arrays, teach_projector

WEIGHTS_FILE = "adapters.safetensors"
CONFIG_FILE = "adapter_config.json"
# Two of our own keys: the adapter is a projector and nothing else; which requests it answers ("image": those with
# pictures).
PROJECTOR_ONLY, ADAPTER_SCOPE = "projector_only", "adapter_scope"
# For an adapter that was imported without its base: how many blocks the base was assumed to have.
ASSUMED_BLOCKS = "assumed_blocks"
# The ranks of modules that have another than `lora.rank`; the scale is the same for all.
RANKS = "ranks"
_MOST_RANK = 1 << 16


def save_adapter(folder: Path, model: nn.Module, options: LoraOptions, base_hash: str, **extra: Any) -> None:
    """Write `folder` whole or not at all, in place of an older one.

    adapter_config.json holds mlx-lm's keys (`fine_tune_type`, `num_layers`, `lora_parameters`); ours are under
    `mlx_loopai`, `extra` among them.
    """
    config = _config(model, options, base_hash, extra)
    with whole_folder(folder) as temporary:
        save_arrays(temporary / WEIGHTS_FILE, adapter_arrays(model), {"format": "mlx"})
        write_settings(temporary, config, model_card(config))


def note_retention(folder: Path, figures: Mapping[str, float | str]) -> None:
    """Keep `figures` as an adapter's retention: in adapter_config.json and on its card, in place of older ones.

    A whole model has a card only. On the card only the part between its markers is replaced; a card without markers
    stays as its owner left it.

    Raises: InputError for a broken adapter_config.json; OSError when a file cannot be written.
    """
    if (folder / CONFIG_FILE).is_file():
        config = read_adapter_config(folder)
        config["mlx_loopai"] = {**(config.get("mlx_loopai") or {}), "retention": dict(figures)}
        write_whole(folder / CONFIG_FILE, json.dumps(config, ensure_ascii=False, indent=2) + "\n")
    card = folder / CARD_FILE
    if card.is_file():
        write_whole(card, with_retention(card.read_text(encoding="utf-8"), figures))


def load_adapter(
    model: nn.Module, folder: Path, base_hash: str | None = None, dropout: float | None = None
) -> LoraOptions:
    """Put the adapter of `folder` on `model`; returns its options. dropout: in place of its own, to train it on.

    Raises: InputError when the folder is not an adapter, belongs to another base, or does not fit `model`.
    """
    config = read_adapter_config(folder)
    ours = config.get("mlx_loopai") or {}
    check_base(folder, config, base_hash)
    options = adapter_options(folder, config)
    if dropout is not None:
        options = options.model_copy(update={"dropout": dropout})
    assumed = ours.get(ASSUMED_BLOCKS)
    if assumed is not None and assumed != len(model.layers):
        raise InputError(
            tr(
                "{path}: was imported without its base, as the adapter of a model with {assumed} blocks; this "
                "one has {n_blocks}: import it again with `base`",
                path=folder,
                assumed=assumed,
                n_blocks=len(model.layers),
            )
        )
    if not ours.get(PROJECTOR_ONLY):
        apply_lora(model, options, 0, own_ranks(folder, config))
    try:
        stored = mx.load(str(folder / WEIGHTS_FILE))
    except (RuntimeError, OSError) as error:
        raise InputError(
            tr("{path}: cannot be read: {error}", path=folder / WEIGHTS_FILE, error=" ".join(str(error).split()))
        ) from None
    if any(name.startswith(f"{PROJECTOR}.") for name in stored):
        teach_projector(model, f"{folder}: brings a projector for pictures")
    expected = adapter_arrays(model)
    # The same text model may be a part of a multimodal one.
    modules = updated_modules(model)
    blocks = blocks_of(next(iter(modules))) if modules else ""
    stored = {
        name if name.startswith(f"{PROJECTOR}.") else with_blocks(name, blocks): array for name, array in stored.items()
    }
    _check_fit(folder, expected, stored)
    model.update(tree_unflatten(list(stored.items())))
    mx.eval(model.parameters())
    return options


def check_base(folder: Path, config: Mapping[str, Any], base_hash: str | None) -> None:
    """Compare the base's hash that the adapter's `config` records with `base_hash`; an unknown hash always fits.

    Raises: InputError when they differ.
    """
    ours = config.get("mlx_loopai") or {}
    trained_on = ours.get("base_hash")
    if base_hash and trained_on and trained_on != base_hash:
        own = ours.get("base")
        named = f", {own}" if own else ""
        raise InputError(
            tr(
                "{path}: trained on another base{named} ({trained_on}, this one is {base_hash}); give its own `model`",
                path=folder,
                named=named,
                trained_on=trained_on[:12],
                base_hash=base_hash[:12],
            )
        )


def find_adapter(path: Path) -> Path:
    """The adapter folder that `path` is or holds as `adapter/`. Raises: InputError when there is none."""
    for folder in (path, path / "adapter"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    own = path / "model"
    if (own / "config.json").is_file():
        raise InputError(
            tr("`adapter` {path}: this run trained a whole model; give {model} as `model`", path=path, model=own)
        )
    state = tr("no adapter here") if path.is_dir() else tr("no such folder")
    raise InputError(
        tr(
            "`adapter` {path}: {state} ({config_file} is missing); give a RUN/adapter folder",
            path=path,
            state=state,
            config_file=CONFIG_FILE,
        )
    )


def adapter_arrays(model: nn.Module) -> dict[str, mx.array]:
    """The trained arrays of `model` by name: `<module>.lora_a` and `.lora_b` of every adapter, `<module>.m` of DoRA,
    `<module>.delta` of whole updates or `.changed` of the weights that they gave, and those of a trained projector."""
    names = ("lora_a", "lora_b", "m", "delta", "changed")
    found = {
        f"{path}.{name}": layer[name]
        for path, layer in updated_modules(model).items()
        for name in names
        if name in layer
    }
    return found | projector_arrays(model)


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json as a table. Raises: InputError when missing or broken."""
    path = folder / CONFIG_FILE
    refuse_links_out(folder, (CONFIG_FILE, WEIGHTS_FILE))
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            tr(
                "{path}: no adapter here ({config_file} is missing); give the RUN/adapter folder",
                path=folder,
                config_file=CONFIG_FILE,
            )
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(tr("{path}: not valid JSON: {error}", path=path, error=error)) from None
    if not isinstance(config, dict) or not isinstance(config.get("lora_parameters"), dict):
        raise InputError(tr("{path}: no lora_parameters; only LoRA adapters in mlx-lm's layout are read", path=path))
    if not isinstance(config.get("mlx_loopai") or {}, dict):
        raise InputError(
            tr("{path}: mlx_loopai is not an object; write the adapter again, or give another one", path=path)
        )
    return config


def adapter_options(folder: Path, config: dict[str, Any]) -> LoraOptions:
    """The LoRA options that rebuild the adapter, ours when present and mlx-lm's keys otherwise."""
    if config.get("fine_tune_type", "lora") not in ("lora", "dora"):
        raise InputError(
            tr(
                "{path}: fine_tune_type {kind!r} is not supported; lora and dora are",
                path=folder,
                kind=config["fine_tune_type"],
            )
        )
    try:
        ours = config.get("mlx_loopai", {}).get("lora")
        return LoraOptions.model_validate(_translated(config) if ours is None else ours)
    except KeyError as error:
        reason = tr("lora_parameters has no {error}", error=error)
    except (ValueError, TypeError, AttributeError) as error:  # pydantic's own is a ValueError
        reason = tr("lora_parameters cannot be read ({error})", error=" ".join(str(error).split())[:200])
    raise InputError(
        tr("{path}: {reason}; write the adapter again, or give another one", path=folder / CONFIG_FILE, reason=reason)
    )


def own_ranks(folder: Path, config: Mapping[str, Any]) -> dict[str, int]:
    """By module, the ranks that are not `lora.rank`. Raises: InputError when the key holds something else."""
    found = (config.get("mlx_loopai") or {}).get(RANKS) or {}
    if isinstance(found, dict) and all(type(rank) is int and 0 < rank <= _MOST_RANK for rank in found.values()):
        return found
    raise InputError(
        tr(
            "{path}: mlx_loopai.ranks is not a table of ranks by module; write the adapter again",
            path=folder / CONFIG_FILE,
        )
    )


def _translated(config: dict[str, Any]) -> dict[str, Any]:
    """mlx-lm's keys as ours: it stores the scale itself, and names layers by their place in a block."""
    parameters = config["lora_parameters"]
    rank = int(parameters["rank"])
    keys = sorted({target_of(key) for key in parameters.get("keys") or ()})
    layers = max(0, int(config.get("num_layers", 0)))
    dora = config.get("fine_tune_type") == "dora"
    return {"rank": rank, "alpha": float(parameters["scale"]) * rank, "dora": dora, "targets": keys, "layers": layers}


def save_arrays(path: Path, arrays: dict[str, mx.array], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file. Raises: OSError with the system's own reason, such as a full disk."""
    try:
        mx.save_safetensors(str(path), arrays, metadata or {})
    except RuntimeError as error:
        # MLX does not say why it failed; a plain write to the same place raises the system's own error.
        with path.open("ab") as stream:
            stream.write(bytes(1 << 16))
        raise OSError(errno.EIO, str(error), str(path)) from None


def write_settings(folder: Path, config: dict[str, Any], card: str) -> None:
    """adapter_config.json and the model card. Raises: OSError."""
    text = json.dumps(config, ensure_ascii=False, indent=2)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


def _config(model: nn.Module, options: LoraOptions, base_hash: str, extra: dict[str, Any]) -> dict[str, Any]:
    n_layers = len(model.layers)
    keys = sorted({split_module(name)[1] for name in updated_modules(model)})
    sizes = {name: layer.lora_a.shape[1] for name, layer in lora_modules(model).items()}
    ranks = {name: rank for name, rank in sizes.items() if rank != options.rank}
    return {
        "fine_tune_type": "dora" if options.dora else "lora",
        "num_layers": options.layers or n_layers,
        "lora_parameters": {
            "rank": options.rank,
            "scale": lora_scale(options.rank, options.alpha, options.rslora),
            "dropout": options.dropout,
            "keys": keys,
        },
        "mlx_loopai": {
            "lora": options.model_dump(mode="json", exclude={"start"}),  # a path of this machine
            "base_hash": base_hash,
            **({RANKS: ranks} if ranks else {}),
            **({} if keys else {PROJECTOR_ONLY: True}),
            **extra,
        },
    }


def _check_fit(folder: Path, expected: dict[str, mx.array], stored: dict[str, mx.array]) -> None:
    problems = [tr("missing {name}", name=name) for name in expected.keys() - stored.keys()]
    problems += [tr("unexpected {name}", name=name) for name in stored.keys() - expected.keys()]
    problems += [
        tr(
            "{name} is {shape}, the model wants {expected}",
            name=name,
            shape=stored[name].shape,
            expected=expected[name].shape,
        )
        for name in expected.keys() & stored.keys()
        if stored[name].shape != expected[name].shape
    ]
    if problems:
        raise InputError(
            tr(
                "{path}: the adapter does not fit this model: {problems}",
                path=folder,
                problems=all_problems(sorted(problems), 5),
            )
        )
