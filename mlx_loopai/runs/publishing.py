"""What of a run or a model is put on the hub: its folder, its card, and the licence that its base sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.adapters import CONFIG_FILE
from mlx_loopai.models.learnt import is_whole, read_learnt
from mlx_loopai.models.model_card import CARD_FILE, base_on, licence_on, model_card, whole_model_card, with_licence
from mlx_loopai.models.released import licence_of
from mlx_loopai.runs.base_of_adapter import model_in
from mlx_loopai.runs.directory import RunDirectory


@dataclass(frozen=True)
class Publication:
    """The files of `folder`, with `card` as their README.md. base: "" where it is not recorded."""

    folder: Path
    card: str
    base: str
    licence: str


def publication(path: Path, licence: str | None = None) -> Publication:
    """What is published of `path`: a run, an adapter's folder or a model's.

    licence: its SPDX name; without it that of the card, or of the base, on which the weights build.

    Raises: InputError when there is neither an adapter nor a model, or no licence is known.
    """
    folder = _folder(path)
    base, card = _base_and_card(folder)
    licence = licence or licence_on(card) or licence_of(base)
    if licence is None:
        raise InputError(
            tr(
                "{folder}: the licence of its base {base} is not known; look at the base's page and give `licence`",
                folder=folder,
                base=base or tr("(not recorded)"),
            ),
            "licence",
        )
    return Publication(folder, with_licence(card, licence), base, licence)


def _folder(path: Path) -> Path:
    found = RunDirectory(path).result or path
    if (found / CONFIG_FILE).is_file() or ((found / "config.json").is_file() and any(found.glob("*.safetensors"))):
        return found
    raise InputError(tr("{path}: neither a run, an adapter's folder nor a model's; give one of them", path=path))


def _base_and_card(folder: Path) -> tuple[str, str]:
    """The name of the base, "" where nothing tells it, and the card: the one that is there, else a new one."""
    place, settings = folder / CARD_FILE, RunDirectory(folder.parent).resolved
    card = place.read_text(encoding="utf-8") if place.is_file() else ""
    if not (folder / CONFIG_FILE).is_file() and not is_whole(folder):
        base = base_on(card) or (model_in(settings) if settings.is_file() else "")
        return base, card or whole_model_card({"base": base})
    config = read_learnt(folder)
    notes = config.get("mlx_loopai") or {}
    made = whole_model_card(notes) if is_whole(folder) else model_card(config)
    return str(notes.get("base") or base_on(card)), card or made
