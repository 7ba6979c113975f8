"""The model card (README.md) of an adapter folder: what it is, what it was made of, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CARD_FILE = "README.md"
_OWN = ("lora", "base_hash", "base", "figures")


def model_card(config: Mapping[str, Any]) -> str:
    """The card, in the hub's Markdown with a YAML head, for the adapter whose adapter_config.json is `config`.

    Figures stand there only where `mlx_loopai.figures` holds them; nothing is claimed that was not measured.
    """
    ours = config.get("mlx_loopai") or {}
    parameters = config["lora_parameters"]
    base = ours.get("base")
    head = ["---", "library_name: mlx", "tags: [mlx, lora]"]
    # The hub accepts ids only; a local folder would be a broken link.
    if isinstance(base, str) and base.count("/") == 1 and not base.startswith((".", "/", "~")):
        head.append(f"base_model: {base}")
    rows = {
        "base": base or "not recorded",
        "hash of the base": ours.get("base_hash") or "not recorded",
        "rank": parameters["rank"],
        "scale": f"{parameters['scale']:.6g}",
        "blocks, from the last": config["num_layers"],
        "modules": ", ".join(parameters.get("keys") or ()),
    }
    lines = [*head, "---", "", "# LoRA adapter", "", *_table("", rows)]
    figures = ours.get("figures")
    lines += ["", "## Retention", ""]
    lines += _table("figure", figures) if figures else ["Not measured; `mlx-loopai evaluate` measures it."]
    recipe = {key: value for key, value in ours.items() if key not in _OWN}
    if recipe:
        lines += ["", "## Recipe", "", *_table("setting", recipe)]
    lines += ["", "## Use", "", "    mlx-loopai generate PROMPT --model BASE --adapter THIS_FOLDER", ""]
    return "\n".join(lines)


def _table(name: str, rows: Mapping[str, Any]) -> list[str]:
    return [f"| {name} | |", "|---|---|", *(f"| {key} | {_cell(value)} |" for key, value in rows.items())]


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())[:500]
