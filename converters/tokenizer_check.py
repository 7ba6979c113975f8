"""Checks that a tokenizer opens and encodes, before anything is written and without hanging on a hostile one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from converters.json_files import read_object, write_object
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr

_PROBE = "Hello, world. 안녕하세요 1,234! 漢字 🙂\n\n\t<|x|>  "
# The factor by which normalisation may lengthen a text: SentencePiece's ▁ has three bytes for a space's one.
_MAX_GROWTH = 16.0
_MAX_STEPS = 200


def read_tokenizer_file(path: Path) -> dict[str, Any]:
    """The content of a tokenizer.json. Raises: InputError for one that was made to run for ever."""
    document = read_object(path)
    steps = list(_steps({key: document.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")}))
    growth = 1.0
    for step in steps:
        growth *= _growth(step)
    if growth > _MAX_GROWTH or len(steps) > _MAX_STEPS:
        raise InputError(
            tr(
                "{path}: its steps make a text {growth:.3g} times as long; do not trust this tokenizer",
                path=path,
                growth=growth,
            )
        )
    return document


def require_opens(files: Sequence[Path], config: Mapping[str, Any], scratch: Path) -> None:
    """Open a tokenizer's files as mlx-lm will, and encode and decode a text; `scratch` is a folder for copies.

    Raises:
        InputError: it cannot be opened or does not encode.
    """
    from mlx_loopai.models.load import load_tokenizer

    with tempfile.TemporaryDirectory(dir=scratch) as place:
        for file in files:
            shutil.copyfile(file, Path(place) / file.name)
        write_object(Path(place) / "config.json", {"model_type": config["model_type"]})
        try:
            tokenizer = load_tokenizer(Path(place))
            tokenizer.decode(tokenizer.encode(_PROBE))
        # The tokenizers library raises bare Exceptions, and Rust panics, which are not Exceptions.
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            reason = " ".join(str(error).split()).replace(place, "")[:200]
            raise InputError(
                tr(
                    "{parent}: nothing can open its tokenizer ({reason}); get a fresh copy",
                    parent=files[0].parent,
                    reason=reason,
                )
            ) from None


def _steps(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every step of a tokenizer's parts, those inside of sequences too; a sequence of sequences costs no recursion."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, Mapping):
            if found.get("type") == "Replace":
                yield found
            waiting += [inner for inner in found.values() if isinstance(inner, Mapping | list)]
        elif isinstance(found, list):
            waiting += found


def _growth(step: Mapping[str, Any]) -> float:
    """By how much a replacement lengthens a text at most."""
    pattern, content = step.get("pattern"), step.get("content")
    if not isinstance(content, str):
        return 1.0
    text = pattern.get("String") if isinstance(pattern, Mapping) else None
    # An expression may match a single character, or nothing between any two.
    replaced = len(text.encode()) if isinstance(text, str) and text else 1
    return max(1.0, len(content.encode()) / replaced)
