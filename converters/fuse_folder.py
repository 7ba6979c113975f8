"""Writes base and adapter as one MLX folder, after checking that they belong together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from converters.convert import identity
from converters.fuse import Survival, choose_forms, fused_entries, scheme_of_folder
from converters.output import check_output_free, check_space, files_in, output_folder, sha256_of, work_folder
from converters.peft import hf_module
from converters.quantization import Scheme, parse_rules, stored_bytes
from converters.readers import open_checkpoint
from converters.steering import Steering, steered
from converters.tokenizer import choose_tokenizer
from converters.writers.target import Target, make_plan
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.adapter_folder import Adapter, read_adapter
from mlx_loopai.models.adapters import WEIGHTS_FILE
from mlx_loopai.models.load import hash_base
from mlx_loopai.models.model_card import CARD_FILE, whole_model_card


@dataclass(frozen=True)
class Fused:
    """What was written. `survival` by module; `widened`: modules that got more bits than was asked for."""

    out: Path
    tensors: int
    n_bytes: int
    survival: dict[str, Survival]
    widened: list[str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Permissions:
    """Risks that a fusion takes only when the user allows them.

    `allow_loss`: a matrix keeps its few bits even where they lose much of the update. `force`: the base may be another
    than the adapter was trained on.
    """

    allow_loss: bool = False
    force: bool = False


_NONE = Permissions()


def fuse(
    folder: Path,
    base: str,
    out: Path,
    target: Target,
    permissions: Permissions = _NONE,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Fused:
    """Write base + adapter to `out` as `target` says; a quantised base keeps its forms when it names none.

    Raises:
        InputError: adapter, base or `out` cannot be used, or do not belong together (unless `permissions.force`).
        LoopaiError: the disk is full.
    """
    check_output_free(out)
    adapter = read_adapter(folder)
    checkpoint = open_checkpoint(base)
    _check_base(adapter, checkpoint.source, folder, permissions.force)
    with work_folder(out) as work:
        files = choose_tokenizer(checkpoint, None, work)
        merged = fused_entries(checkpoint, adapter)
        if target.steer:
            merged = steered(merged, files, Steering.parse(target.steer))
        had = scheme_of_folder(checkpoint.source) if checkpoint.source.is_dir() else {}
        plan = make_plan(target, merged)
        same_forms = {} if target.quantize else _without_ruled(had, target, merged.config["tie_word_embeddings"])
        if same_forms:
            main = max(set(same_forms.values()), key=list(same_forms.values()).count)
            plan = replace(plan, forms=replace(plan.forms, main=main, by_name={**plan.forms.by_name, **same_forms}))
        asked = plan.forms.by_name
        forms, survival = choose_forms(checkpoint, adapter, plan.forms, same_forms, permissions.allow_loss, on_progress)
        widened = [name for name in survival if forms.by_name[_weight(name)] != asked[_weight(name)]]
        plan = replace(plan, forms=forms)
        check_space(out, sum(stored_bytes(entry, forms.by_name[entry.name], forms.dtype) for entry in merged.entries))
        made_from = identity(checkpoint, files, plan) | {"adapter": sha256_of(folder / WEIGHTS_FILE)}
        with output_folder(out, made_from) as place:
            tensors = plan.write_folder(place, merged, files, on_progress)
            if target.to in ("mlx", "hf"):
                card = whole_model_card(adapter.notes, "mlx" if target.to == "mlx" else "transformers")
                (place.path / CARD_FILE).write_text(card, encoding="utf-8")
    n_bytes = sum(path.stat().st_size for path in files_in(out))
    return Fused(out, tensors, n_bytes, survival, widened, (*merged.notes, *plan.notes))


def _without_ruled(had: dict[str, Scheme], target: Target, tied: bool) -> dict[str, Scheme]:
    """The forms of a quantised base but for the matrices to which a rule of `keep` gives another."""
    rules = parse_rules(target.keep, target.group_size)
    return {
        name: scheme
        for name, scheme in had.items()
        if not any(rule.matches(name.removesuffix(".weight"), tied) for rule in rules)
    }


def _weight(module: str) -> str:
    return f"{hf_module(module)}.weight"


def _check_base(adapter: Adapter, source: Path, folder: Path, force: bool) -> None:
    if force or adapter.base_hash is None or not source.is_dir():
        return
    found = hash_base(source)
    if found != adapter.base_hash:
        raise InputError(
            tr(
                "{folder}: trained on another base ({base_hash}, {source} is {found}); give its own `base`, or "
                "`force` when it is the same model in another form",
                folder=folder,
                base_hash=adapter.base_hash[:12],
                source=source,
                found=found[:12],
            )
        )
