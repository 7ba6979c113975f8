"""How far a run hands its whole configuration on: below its first functions everything takes the options it reads."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable
from dataclasses import is_dataclass
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import yaml

from mlx_loopai.config import RunConfig, load_config, validate_config
from mlx_loopai.runs.listener import Silent
from mlx_loopai.training.run import train

ROOT = Path(__file__).parents[3]
PACKAGE = f"{ROOT / 'mlx_loopai'}/"
MOST_FUNCTIONS, MOST_CLIMBS = 40, 5
# A function gets the same kinds of values each time: to look into all of a run's calls takes minutes.
CALLS_LOOKED_AT = 3


def carries(value: object) -> bool:
    """Whether `value` is a whole configuration, or a record that holds one."""
    if isinstance(value, RunConfig):
        return True
    parts = getattr(value, "__dict__", {}) if is_dataclass(value) and not isinstance(value, type) else {}
    return any(map(carries, parts.values()))


def handed_on(run: Callable[[], object]) -> list[tuple[str, str]]:
    """(room, function) of the package that `run` hands a whole configuration, in the order of their first calls."""
    found: dict[tuple[str, str], None] = {}
    calls: Counter[CodeType] = Counter()

    def called(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE) or code.co_name.startswith("<"):
            return
        calls[code] += 1
        if calls[code] > CALLS_LOOKED_AT:
            return
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        file = code.co_filename.removeprefix(PACKAGE)
        if any(carries(frame.f_locals.get(name)) for name in names):
            found[file.split("/")[0], f"{file}:{code.co_qualname}"] = None

    sys.setprofile(called)
    try:
        run()
    finally:
        sys.setprofile(None)
    return [key for key in found if key[0] != "config"]


def rooms() -> list[str]:
    """From top to bottom, as import-linter holds them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    found: list[str] = next(entry["layers"] for entry in contracts if entry["type"] == "layers")
    return found


def test_few_functions_get_the_whole_configuration(recipe: str, tmp_path: Path) -> None:
    values = yaml.safe_load(recipe)
    values["train"]["max_steps"] = 4
    values["replay"] = {"share": 0.5, "source": "self", "objective": "kl", "max_prompts": 8, "answer_tokens": 4}
    config = validate_config(values, "recipe")
    assert config.has_budget  # the longest way: rehearsal, a penalty, readings, a switch
    place = tmp_path / "recipe.yaml"
    place.write_text(config.to_yaml(), encoding="utf-8")
    # In a process of its own: in that of all tests, every call is followed through what they have left there.
    ended = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import main; main()", place, tmp_path / "run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    way = [tuple(one) for one in json.loads(ended.stdout.splitlines()[-1])]
    assert 10 < len(way) <= MOST_FUNCTIONS, way
    order = rooms()
    climbs = [pair for pair in pairwise(way) if order.index(pair[1][0]) < order.index(pair[0][0])]
    assert len(climbs) <= MOST_CLIMBS, climbs


def main() -> None:
    """The way of the configuration in the file of the first argument, trained into the folder of the second."""
    config, out = load_config(sys.argv[1]), Path(sys.argv[2])
    sys.stdout.write(json.dumps(handed_on(lambda: train(config, out, Silent()))) + "\n")
