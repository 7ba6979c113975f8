"""The model card (README.md) of an adapter folder or a trained model: what it is and was made of, and its figures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

CARD_FILE = "README.md"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_OWN = ("lora", "ranks", "base_hash", "base", "recipe", "figures", "retention")
_BEGIN, _END = "<!-- retention: begin -->", "<!-- retention: end -->"
_USE = {
    "mlx": "    mlx-loopai generate PROMPT --model BASE --adapter THIS_FOLDER",
    "peft": "    peft.PeftModel.from_pretrained(base, THIS_FOLDER)",
}
_USE_WHOLE = {
    "mlx": "    mlx-loopai generate PROMPT --model THIS_FOLDER",
    "transformers": "    transformers.AutoModelForCausalLM.from_pretrained(THIS_FOLDER)",
}


def model_card(config: Mapping[str, Any], library: Literal["mlx", "peft"] = "mlx") -> str:
    """The card, in the hub's Markdown with a YAML head; `config` is adapter_config.json in mlx-lm's layout.

    It has figures only where `mlx_loopai.figures` and `.retention` hold some: nothing unmeasured is claimed.
    """
    ours = config.get("mlx_loopai") or {}
    parameters = config["lora_parameters"]
    base = ours.get("base")
    head = ["---", f"library_name: {library}", f"tags: [{library}, lora]"]
    # The hub accepts ids only; a local folder would be a broken link, and a line end would write keys of its own.
    if isinstance(base, str) and _HUB_ID.fullmatch(base):
        head.append(f"base_model: {base}")
    rows = {
        "base": base or "not recorded",
        "hash of the base": ours.get("base_hash") or "not recorded",
        "rank": _rank(parameters["rank"], ours.get("ranks")),
        "scale": f"{parameters['scale']:.6g}",
        "blocks, from the last": config["num_layers"],
        "modules": ", ".join(parameters.get("keys") or ()),
    }
    lines = [*head, "---", "", "# LoRA adapter", "", *_table("", rows)]
    lines += ["", "## Retention", "", *_retention(ours.get("retention"))]
    if ours.get("figures"):
        lines += ["", "## Training", "", *_table("figure", ours["figures"])]
    recipe = {**(ours.get("recipe") or {}), **{key: value for key, value in ours.items() if key not in _OWN}}
    if recipe:
        lines += ["", "## Recipe", "", *_table("setting", recipe)]
    lines += ["", "## Use", "", _USE[library], ""]
    return "\n".join(lines)


def whole_model_card(notes: Mapping[str, Any], library: Literal["mlx", "transformers"] = "mlx") -> str:
    """The card of a model whose weights were trained, or in which an adapter was fused.

    notes: base, base_hash, recipe, figures and retention, as the notes of an adapter.
    """
    base = notes.get("base")
    head = ["---", f"library_name: {library}"]
    if isinstance(base, str) and _HUB_ID.fullmatch(base):
        head.append(f"base_model: {base}")
    rows = {"base": base or "not recorded", "hash of the base": notes.get("base_hash") or "not recorded"}
    lines = [*head, "---", "", "# Fine-tuned model", "", *_table("", rows)]
    lines += ["", "## Retention", "", *_retention(notes.get("retention"))]
    tables = ("Training", "figure", notes.get("figures")), ("Recipe", "setting", notes.get("recipe"))
    for title, name, found in tables:
        if found:
            lines += ["", f"## {title}", "", *_table(name, found)]
    return "\n".join([*lines, "", "## Use", "", _USE_WHOLE[library], ""])


def with_retention(card: str, figures: Mapping[str, Any]) -> str:
    """`card` with `figures` between its markers of retention; unchanged where it has none: the rest is its owner's."""
    before, begun, rest = card.partition(_BEGIN)
    _, ended, after = rest.partition(_END)
    return before + "\n".join(_retention(figures)) + after if begun and ended else card


def with_licence(card: str, licence: str) -> str:
    """`card` whose head names `licence`; one that its owner wrote there stays."""
    head, begun, rest = card.partition("---\n")
    if head or not begun:
        return f"---\nlicense: {licence.lower()}\n---\n\n{card}"
    return card if _in_head(card, "license") else f"{begun}license: {licence.lower()}\n{rest}"


def licence_on(card: str) -> str:
    """The licence that the head of `card` names; "" where it names none."""
    return _in_head(card, "license")


def base_on(card: str) -> str:
    """The base on the hub that the head of `card` names; "" where it names none."""
    return _in_head(card, "base_model")


def _in_head(card: str, key: str) -> str:
    head, begun, rest = card.partition("---\n")
    lines = rest.partition("\n---")[0].split("\n") if begun and not head else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{key}:")), "")


def _rank(usual: int, own: Mapping[str, int] | None) -> str:
    return f"{usual}" if not own else f"{usual} on average, {min(own.values())} to {max(own.values())} by module"


def _retention(figures: Mapping[str, Any] | None) -> list[str]:
    measured = _table("figure", figures) if figures else ["Not measured; `mlx-loopai evaluate` measures it."]
    return [_BEGIN, *measured, _END]


def _table(name: str, rows: Mapping[str, Any]) -> list[str]:
    return [f"| {name} | |", "|---|---|", *(f"| {key} | {_cell(value)} |" for key, value in rows.items())]


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())[:500]
