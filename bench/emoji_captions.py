"""Inputs of the emoji experiment: does a text model with an added encoder name pictures in a style it never saw?

Emoji are no photographs: a result on them is a check of the mechanism. One style is taught, the same signs in another
style are asked, with Korean names, and asked again with the pictures exchanged. The pictures and names are the user's
own files, such as those of the npm packages `emoji-datasource-google` (Noto, Apache-2.0), `emoji-datasource-twitter`
(Twemoji, CC-BY 4.0) and `emojibase-data` (MIT):

    python bench/emoji_captions.py --names emojibase-data/ko/data.json --taught google/64 --asked twitter/64 \
        --model MODEL --encoder efficientnet-lite0 --out DIR
    mlx-loopai train DIR/projector.yaml --out RUN                # text stays as it is, byte for byte
    mlx-loopai train DIR/adapter.yaml --out RUN2 --set vision.start=RUN
    mlx-loopai evaluate --model DIR/model --adapter RUN2 --suite DIR/suite.yaml --json
    mlx-loopai evaluate --model DIR/model --adapter RUN2 --json   # what is left of the text skills
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from converters.vision_encoder import add_encoder
from mlx_loopai.config.shipped import shipped_values
from mlx_loopai.files import write_whole

SEED = 20265
QUESTION = "이 그림은 무엇인가요?"
# A name of more words is a description, which nobody gives word for word.
MOST_WORDS = 2
ALIGN_STEPS, SAVE_EVERY = 400, 10
# Of an answer: a name is shorter.
MOST_TOKENS = 16
# Nats per token of KL from the base: a third of the recipe's, since no text is taught.
BUDGET = 0.02
# Faces, hands and flags differ by little; what is left are animals, food, places, activities and things.
GROUPS = (3, 4, 5, 6, 7)


@dataclass(frozen=True)
class Sign:
    """An emoji: its Korean name, and what its files are called."""

    name: str
    code: str


def signs(names: Sequence[dict[str, Any]], folders: Sequence[Path], limit: int) -> list[Sign]:
    """At most `limit` signs of the kept groups that have a short name of their own and a picture in every folder."""
    found: dict[str, Sign] = {}
    for entry in names:
        name, code = str(entry.get("label", "")).strip(), str(entry.get("hexcode", "")).lower()
        short = name and len(name.split()) <= MOST_WORDS
        if short and entry.get("group") in GROUPS and all((folder / f"{code}.png").is_file() for folder in folders):
            found.setdefault(name, Sign(name, code))
    chosen = list(found.values())
    random.Random(SEED).shuffle(chosen)
    return chosen[:limit]


def write_rows(folder: Path, pictures: Path, chosen: Sequence[Sign]) -> Path:
    """Rows that ask for the name of each picture, with the pictures beside them."""
    folder.mkdir(parents=True)
    lines = []
    for sign in chosen:
        shutil.copyfile(pictures / f"{sign.code}.png", folder / f"{sign.code}.png")
        row = {"prompt": QUESTION, "completion": sign.name, "images": [f"{sign.code}.png"]}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    file = folder / "rows.jsonl"
    write_whole(file, "".join(lines))
    return file


def recipes(model: Path, rows: Path, epochs: float) -> dict[str, dict[str, Any]]:
    """The stage of the projector, and the guarded adapter on top of it, which begins with `vision.start`."""
    common = {"model": str(model), "sources": {"emoji": {"path": str(rows)}}}
    train = {"epochs": epochs, "rows_per_step": 8, "max_tokens": 512}
    train |= {"learning_rate": 4e-4, "bias_correction": True, "schedule": "linear", "save_every": SAVE_EVERY}
    projector = {**common, "train": train, "vision": {"trains": "projector", "align_steps": ALIGN_STEPS}}
    guarded = shipped_values("guarded")
    adapter = {**guarded, **common, "train": guarded["train"] | {"epochs": epochs, "max_tokens": 512}}
    # Every sign is taught: what is asked is the other style.
    adapter |= {"validation_share": 0, "forgetting": guarded["forgetting"] | {"budget": BUDGET}}
    return {"projector": projector, "adapter": adapter}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("names", "taught", "asked", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--encoder", default="efficientnet-lite0")
    parser.add_argument("--grid", type=int, help="tokens along a picture's side, as of `vision add`")
    parser.add_argument("--signs", type=int, default=40)
    parser.add_argument("--epochs", type=float, default=20.0)
    given = parser.parse_args(arguments)
    names = json.loads(given.names.read_text(encoding="utf-8"))
    chosen = signs(names, [given.taught, given.asked], given.signs)
    if len(chosen) < 2:
        parser.error("fewer than two signs have a short name and a picture in both folders")
    given.out.mkdir(parents=True)
    model = add_encoder(given.model, given.encoder, given.out / "model", grid=given.grid).out
    rows = write_rows(given.out / "taught", given.taught, chosen)
    write_rows(given.out / "asked", given.asked, chosen)
    for name, values in recipes(model.resolve(), rows.resolve(), given.epochs).items():
        write_whole(given.out / f"{name}.yaml", yaml.safe_dump(values, allow_unicode=True, sort_keys=False))
    suite = {
        # "팩스elsen" and "김밥" do not name 팩스 and 밥; "팩스입니다" does.
        name: {"kind": "caption", "file": f"{folder}/rows.jsonl", "match": "word", "max_tokens": MOST_TOKENS}
        for name, folder in (("taught", "taught"), ("emoji", "asked"))
    }
    write_whole(given.out / "suite.yaml", yaml.safe_dump(suite, sort_keys=False))


if __name__ == "__main__":
    main()
