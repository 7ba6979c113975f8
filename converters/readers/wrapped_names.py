"""Removes prefixes of training wrappers (`_orig_mod.`, `module.` and the like) from tensor names, and reports them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from converters.tensors import TensorEntry
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

# torch.compile, FSDP and activation checkpointing put these between any two parts of a name.
_INNER = re.compile(r"(?:^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# DataParallel and DDP, PEFT, and a trainer that keeps the model as its attribute put these before every name.
_OUTER = ("module.", "base_model.model.", "model.model.")
_ADAPTER = re.compile(r"\.(lora_[AB]|lora_magnitude_vector|base_layer|original_module|modules_to_save)\.")


def unwrapped(entries: Mapping[str, TensorEntry], where: str) -> tuple[dict[str, TensorEntry], tuple[str, ...]]:
    """The entries under the names that the bare model has, and the prefixes that were taken off.

    Raises:
        InputError: two tensors would have one name, or an adapter is among them that is not merged.
    """
    adapter = next((name for name in entries if _ADAPTER.search(name)), None)
    if adapter is not None:
        raise InputError(
            tr(
                "{where}: holds {adapter!r}, a part of an adapter that is not merged; load the model with PEFT, "
                "call merge_and_unload() and save it, or give the base and `adapters import` the adapter",
                where=where,
                adapter=adapter[:120],
            )
        )
    removed: dict[str, None] = {}
    renamed: dict[str, str] = {}
    for name in entries:
        found = _INNER.findall(name)
        removed |= dict.fromkeys(f"{part}." for part in found)
        renamed[name] = _INNER.sub("", name) if found else name
    while prefix := _common_prefix(renamed.values()):
        removed[prefix] = None
        renamed = {name: bare.removeprefix(prefix) for name, bare in renamed.items()}
    if len(set(renamed.values())) != len(renamed):
        raise InputError(
            tr(
                "{where}: without {removed} two tensors have the same name; give another copy",
                where=where,
                removed=", ".join(removed),
            )
        )
    return {bare: replace(entries[name], name=bare) for name, bare in renamed.items()}, tuple(removed)


def _common_prefix(names: Iterable[str]) -> str | None:
    """A wrapper's prefix before all `names`; of `model.model.` the first half: the second belongs to the model."""
    found = list(names)
    for prefix in _OUTER:
        whole = "model." if prefix == "model.model." else prefix
        if all(name.startswith((prefix, f"{whole}lm_head.", f"{whole}embed_out.")) for name in found):
            return whole
    return None
