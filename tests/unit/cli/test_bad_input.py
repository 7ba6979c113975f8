"""Wrong input of every kind: one clear line on stderr, the right exit status, no traceback, nothing half written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.conftest import TINY_CONFIG
from tests.unit.cli.conftest import Ended

CommandLine = Callable[..., Ended]

GOOD_ROW = '{"prompt": "안녕?", "completion": "네, 안녕하세요."}\n'
TRAIN = "train --plain --model MODEL --data rows.jsonl --out run"
RECIPE = "sources: {tales: {path: rows.jsonl}}\n"
OTHER_BASE = json.dumps(TINY_CONFIG | {"rope_theta": 20000.0})


@dataclass(frozen=True)
class Case:
    """`files` are written (bytes as they are) into an empty folder, in which `command` then runs.

    MODEL stands for the tiny model. `says`: what the line must name. `world`: what else is wrong with the world.
    """

    name: str
    command: str
    says: tuple[str, ...]
    files: dict[str, str | bytes] = field(default_factory=dict)
    status: int = 2
    world: str = ""


CASES = [
    # Rows
    Case("missing file", TRAIN, ("rows.jsonl: no such file",)),
    Case("empty file", TRAIN, ("rows.jsonl: holds no rows",), {"rows.jsonl": ""}),
    Case("blank lines only", TRAIN, ("rows.jsonl: holds no rows",), {"rows.jsonl": "\n\n"}),
    Case("not UTF-8", TRAIN, ("rows.jsonl:1: not UTF-8", "CP949"), {"rows.jsonl": GOOD_ROW.encode("cp949")}),
    Case("broken JSON line", TRAIN, ("rows.jsonl:2: broken JSON",), {"rows.jsonl": GOOD_ROW + '{"prompt": "아\n'}),
    Case("line that is not an object", TRAIN, ("rows.jsonl:1: expected an object",), {"rows.jsonl": "3\n"}),
    Case(
        "empty assistant turn",
        TRAIN,
        ("rows.jsonl:2: empty assistant turn",),
        {"rows.jsonl": GOOD_ROW + '{"prompt": "안녕?", "completion": " "}\n'},
    ),
    Case(
        "chat without an answer",
        TRAIN,
        ("rows.jsonl:1: no assistant turn",),
        {"rows.jsonl": '{"messages": [{"role": "user", "content": "안녕?"}]}\n'},
    ),
    Case(
        "row with only a prompt",
        TRAIN,
        ("rows.jsonl:1: a prompt without an answer", "preference.objective grpo"),
        {"rows.jsonl": '{"prompt": "안녕?"}\n'},
    ),
    Case("unknown ending", "train --data rows.rtf --out run", ("rows.rtf: cannot read .rtf",), {"rows.rtf": "x"}),
    Case(
        "folder without rows",
        "train --model MODEL --data rows.jsonl --out run",
        ("rows.jsonl: holds no rows (.jsonl",),
        {"rows.jsonl/a": "x"},
    ),
    Case("all problems at once", TRAIN, ("rows.jsonl:1:", "rows.jsonl:3:"), {"rows.jsonl": f"1\n{GOOD_ROW}2\n"}),
    # Settings
    Case(
        "unknown key",
        "train recipe.yaml --out run",
        ("recipe.yaml: unknown key train.learnig_rate; did you mean learning_rate?",),
        {"recipe.yaml": RECIPE + "train: {learnig_rate: 1}\n"},
    ),
    Case("missing recipe", "train recipe.yaml --out run", ("recipe.yaml: no such recipe",)),
    Case("recipe is a folder", "train recipe.yaml --out run", ("recipe.yaml: cannot be read",), {"recipe.yaml/a": ""}),
    Case("recipe is no YAML", "train recipe.yaml --out run", ("recipe.yaml: not valid YAML",), {"recipe.yaml": "a: ["}),
    Case(
        "sources is a list",
        "train recipe.yaml --out run",
        ("recipe.yaml: sources: ",),
        {"recipe.yaml": "sources: [rows.jsonl]\n"},
    ),
    Case(
        "sources is empty",
        "train recipe.yaml --out run",
        ("recipe.yaml: sources: ",),
        {"recipe.yaml": "model: nano\nsources:\n"},
    ),
    Case("table set to a value", f"{TRAIN} --set train=3", ("train: ", "(got 3)"), {"rows.jsonl": GOOD_ROW}),
    Case("no data at all", "train --model MODEL --out run", ("give RECIPE.yaml, or --data FILE",)),
    Case("no sources", "train recipe.yaml --out run", ("no training data",), {"recipe.yaml": "model: nano\n"}),
    Case(
        "--data with a recipe",
        "train recipe.yaml --data rows.jsonl --out run",
        ("--data goes without a recipe", "`sources`"),
        {"recipe.yaml": RECIPE, "rows.jsonl": GOOD_ROW},
    ),
    Case(
        "infinite learning rate",
        f"{TRAIN} --set train.learning_rate=.inf",
        ("train.learning_rate: Input should be a finite number (got inf)",),
        {"rows.jsonl": GOOD_ROW},
    ),
    Case(
        "missing general rows",
        f"{TRAIN} --set general=g.jsonl --set penalty.kind=kronecker",
        ("g.jsonl: no such file",),
        {"rows.jsonl": GOOD_ROW},
    ),
    Case("no --out", "train --data rows.jsonl", ("give --out DIR",)),
    Case("--out is a file", f"{TRAIN}", ("run: is a file",), {"rows.jsonl": GOOD_ROW, "run": "mine"}),
    Case("--out is below a file", f"{TRAIN}/er", ("run/er: is a file",), {"rows.jsonl": GOOD_ROW, "run": "mine"}),
    Case("budget that is no size", f"{TRAIN} --set memory.budget=a", ("memory.budget",), {"rows.jsonl": GOOD_ROW}),
    Case("too little memory", f"{TRAIN} --set memory.budget=1KiB", ("memory",), {"rows.jsonl": GOOD_ROW}, status=1),
    # Models
    Case("train: no config.json", "train --model m --data rows.jsonl --out run", ("m: no config.json",), {"m/a": ""}),
    Case("generate: no config.json", "generate 안녕 --model m", ("m: no config.json",), {"m/a": ""}),
    Case("plan: no config.json", "plan --model m", ("m: no config.json",), {"m/a": ""}),
    Case("convert: no config.json", "convert m --out run", ("m", "config.json"), {"m/a": ""}),
    Case("config.json is no JSON", "plan --model m", ("m/config.json: not valid JSON",), {"m/config.json": "{"}),
    *(
        Case(
            f"{command.split()[0]}: unsupported architecture",
            command,
            ("m", "mamba", "supported"),
            {"m/config.json": json.dumps(TINY_CONFIG | {"model_type": "mamba"}), "rows.jsonl": GOOD_ROW},
        )
        for command in (
            "train --model m --data rows.jsonl --out run",
            "generate 안녕 --model m",
            "plan --model m",
            "convert m --out run",
        )
    ),
    *(
        Case(f"{command.split()[0]}: hub out of reach", command, ("nobody/nothing-here",), {"rows.jsonl": GOOD_ROW})
        for command in (
            "train --model nobody/nothing-here --data rows.jsonl --out run",
            "generate 안녕 --model nobody/nothing-here",
            "plan --model nobody/nothing-here",
            "convert nobody/nothing-here --out run",
        )
    ),
    Case("model is a file", "generate 안녕 --model m.gguf", ("m.gguf", "convert it first"), {"m.gguf": "GGUF"}),
    Case("GGUF that is none", "convert m.gguf --out run", ("m.gguf",), {"m.gguf": "no such thing"}),
    Case("convert over something", "convert MODEL --out run", ("run: already holds files",), {"run/mine": "x"}),
    # Runs and adapters
    Case(
        "--resume with other settings",
        "train --model MODEL --data rows.jsonl --out run --resume --set train.max_steps=3 --set lora.rank=2",
        ("run: cannot resume", "train.max_steps is 3, was 2", "lora.rank is 2, was 8", "lora.start=run"),
        world="finished run",
    ),
    Case(
        "a run without --resume",
        "train --model MODEL --data rows.jsonl --out run --set train.max_steps=2",
        ("run: holds a run", "--resume"),
        world="finished run",
    ),
    Case(
        "--resume with another base",
        "train --plain --model m --data rows.jsonl --out run --resume --set train.max_steps=2",
        ("run: cannot resume: the base is another one",),
        {"m/config.json": OTHER_BASE},
        world="finished run",
    ),
    Case(
        "--resume with other rows",
        "train --plain --model MODEL --data rows.jsonl --out run --resume --set train.max_steps=2",
        ("run: cannot resume: the rows",),
        {"rows.jsonl": GOOD_ROW},
        world="finished run",
    ),
    Case(
        "adapter of another base",
        "generate 안녕 --model m --adapter run/adapter",
        ("run/adapter: trained on another base",),
        {"m/config.json": OTHER_BASE},
        world="finished run",
    ),
    Case(
        "damaged adapter",
        "generate 안녕 --model MODEL --adapter run/adapter",
        ("adapters.safetensors: cannot be read",),
        {"run/adapter/adapters.safetensors": "x"},
        world="finished run",
    ),
    Case("folder without an adapter", "generate 안녕 --adapter run", ("run: no adapter here",), {"run/a": ""}),
    Case(
        "locked by another process",
        TRAIN,
        ("run: another process is writing this run",),
        {"rows.jsonl": GOOD_ROW},
        world="locked run",
    ),
    # Other commands
    Case("report of nothing", "report run", ("run: no such file or folder",)),
    Case("report of a folder without a run", "report run", ("run: holds no run",), {"run/a": ""}),
    Case("gate on nothing", "gate run", ("run: there is no such report",)),
    Case("filter: missing file", "filter text.txt", ("text.txt",)),
    Case("filter: not UTF-8", "filter text.txt", ("text.txt", "UTF-8"), {"text.txt": "한국".encode("cp949")}),
    Case("evaluate: no config.json", "evaluate --model m", ("m: no config.json",), {"m/a": ""}),
    Case("evaluate: no adapter", "evaluate --adapter run", ("run: no adapter here",), {"run/a": ""}),
    Case("demo: --out is a file", "demo --out run", ("--out run: is a file",), {"run": "mine"}),
    Case("prompts: missing file", "generate --prompts p.jsonl --model MODEL", ("p.jsonl",)),
    Case("few-shot: empty file", "generate 안녕 --few-shot f.jsonl --model MODEL", ("f.jsonl",), {"f.jsonl": ""}),
    # A full disk
    *(
        Case(
            f"disk full at {at}",
            f"{TRAIN} --quiet --set train.save_every=0 --set train.max_steps=1",
            ("No space left on device", "free some space"),
            {"rows.jsonl": GOOD_ROW},
            status=1,
            world=f"disk full at {at}",
        )
        for at in ("the checkpoint", "the adapter", "a sync")
    ),
    Case("disk full at convert", "convert MODEL --out new --quiet", ("new", "disk is full"), {}, 1, "disk full"),
    Case(
        "disk full at generate",
        "generate --prompts p.txt --model MODEL --max-tokens 2 --out a.jsonl --quiet",
        ("No space left on device",),
        {"p.txt": "안녕?\n"},
        1,
        "disk full of answers",
    ),
    Case("disk full at report", "report run", ("No space left on device",), {}, 1, "disk full after a run"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(
    case: Case,
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command_line: CommandLine,
    request: pytest.FixtureRequest,
) -> None:
    if case.world in ("finished run", "disk full after a run"):
        shutil.copytree(request.getfixturevalue("finished_run"), tmp_path, dirs_exist_ok=True)
    for name, content in case.files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    if case.files.get("m/config.json") == OTHER_BASE:
        for file in tiny_model_folder.iterdir():
            if file.name != "config.json":
                shutil.copy(file, tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    arguments = [part.replace("MODEL", str(tiny_model_folder)) for part in case.command.split()]
    before = contents(tmp_path)
    with monkeypatch.context() as patch, locked(tmp_path / "run", case.world == "locked run"):
        if case.world.startswith("disk full"):
            fill_disk(patch, case.world)
        ended = command_line(*arguments)
    assert (ended.status, ended.stdout) == (case.status, ""), ended.stderr
    assert ended.stderr.startswith("mlx-loopai: error: ")
    assert ended.stderr.count("\n") == 1
    assert "Traceback" not in ended.stderr
    assert "unexpected" not in ended.stderr
    assert not [words for words in case.says if words not in ended.stderr], ended.stderr
    assert_nothing_half_written(before, contents(tmp_path), case)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by its path in `folder`."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


CHECKPOINT = ("arrays.safetensors", "state.json", "checksums.json")


def assert_nothing_half_written(before: dict[str, bytes], after: dict[str, bytes], case: Case) -> None:
    new = after.keys() - before.keys()
    if case.world.startswith("disk full at"):
        # The run's records and what was complete before the disk was full stay: --resume goes on from them.
        kept = {"run/events.jsonl", "run/run.json", "run/resolved.yaml"}
        checkpoint = {f"run/checkpoints/step-000001/{name}" for name in CHECKPOINT}
        assert new == kept | (checkpoint if case.world.endswith("the adapter") else set())
    elif case.world == "disk full of answers":
        assert new == {"a.jsonl"}  # whole rows stay: the same command goes on after them
        assert all(json.loads(line) for line in after["a.jsonl"].splitlines())
    else:
        assert new == set()
    assert {name: after.get(name) for name in before} == before


@contextmanager
def locked(run: Path, wanted: bool) -> Iterator[None]:
    """Another process writes `run` meanwhile."""
    if not wanted:
        yield
        return
    run.mkdir()
    code = (
        "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
        process.communicate("\n")


def fill_disk(patch: pytest.MonkeyPatch, world: str) -> None:
    """What the file system would do, where `world` says."""
    save = mx.save_safetensors

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def save_half(path: str, *arguments: Any) -> None:
        if world.split()[-1] not in path:
            save(path, *arguments)
            return
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    if world.endswith(("checkpoint", "adapter")):
        patch.setattr(mx, "save_safetensors", save_half)
    elif world.endswith("a sync"):
        patch.setattr("mlx_loopai.training.checkpoint.sync_file", full)
    else:
        patch.setattr(os, "fsync", full)
        patch.setattr(os, "replace", full)
