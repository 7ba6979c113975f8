"""What README.md says is true: its commands run, its files and folders are there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from converters.convert import convert
from converters.writers.target import Target
from mlx_loopai.cli.main import COMMANDS, main
from tests.unit.cli.conftest import write_rows

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What a line of a code block may begin with.
STARTS = ("make ", "mlx-loopai ", "uv tool install .", "source .venv/bin/activate")
BLOCKS = [block.strip("\n").splitlines() for block in re.findall(r"^```\w*\n(.*?)^```$", README, re.M | re.S)]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
LINES = [line.partition("#")[0].strip() for block in BLOCKS for line in block]
# Options that keep a command short on a tiny model; they change nothing of what the line shows.
SHORTER = {
    "train": "--set train.max_steps=2 --set replay.max_prompts=6 --set replay.answer_tokens=6 --set forgetting.questions=1",
    "generate": "--max-tokens 24",
}


def commands() -> list[list[str]]:
    """Every `mlx-loopai ...` line of the code blocks, split as a shell would."""
    return [shlex.split(line)[1:] for line in LINES if line.startswith("mlx-loopai ")]


def test_the_code_blocks_hold_known_lines_only() -> None:
    unknown = [
        block[0] for block in BLOCKS if not all(line.startswith(STARTS) for line in block) and block[0] != "mlx_loopai/"
    ]
    assert unknown == []
    assert len(commands()) >= 5


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {line.split()[1] for line in LINES if line.startswith("make ")}
    named |= set(re.findall(r"`make ([\w-]+)`", README))
    assert {"demo", "test"} <= named
    assert not [target for target in named if not re.search(rf"^{target}:", makefile, re.M)]
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.M)
    assert phony
    assert named <= set(phony[1].split())


def test_commands_in_the_text_exist_and_are_documented() -> None:
    named = {arguments[0] for arguments in commands()} | set(re.findall(r"`mlx-loopai ([a-z]+)", README))
    named |= {name for name in re.findall(r"`([a-z]+)`", README) if name in COMMANDS}
    assert named <= set(COMMANDS)
    help_text = (ROOT / "docs" / "help.md").read_text(encoding="utf-8")
    assert not [name for name in named if f"\n## mlx-loopai {name}\n" not in help_text]


def test_the_commands_run_one_after_the_other(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    convert(tiny_model_folder, tmp_path / "model.gguf", target=Target(to="gguf"))
    write_rows(tmp_path / "rows.jsonl", 6)
    monkeypatch.chdir(tmp_path)
    for arguments in commands():
        if arguments[0] in ("demo", "start", "serve"):  # minutes, questions, no end; tests/unit/cli has their own
            continue
        given = arguments + shlex.split(SHORTER.get(arguments[0], ""))
        capfd.readouterr()
        assert main(given) == 0, f"{shlex.join(arguments)}: {capfd.readouterr().err}"
        assert capfd.readouterr().out.strip(), f"{shlex.join(arguments)} says nothing"
    assert (tmp_path / "models" / "base" / "model.safetensors").is_file()
    assert (tmp_path / "runs" / "first" / "adapter" / "adapters.safetensors").is_file()
    assert (tmp_path / "runs" / "first" / "rehearsal.jsonl").is_file()
    assert (tmp_path / "runs" / "first" / "report.html").is_file()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_linked_files_exist(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    assert not [link for link in links if not link.startswith("http") and not (document.parent / link).exists()]


def test_commands_of_the_guides_exist_with_their_options(capfd: pytest.CaptureFixture[str]) -> None:
    named = [
        shlex.split(command)[1:]
        for guide in (ROOT / "docs" / "guides").glob("*.md")
        for command in re.findall(r"(?:^|`)(mlx-loopai [^`\n]+)", guide.read_text(encoding="utf-8"), re.M)
    ]
    assert named
    for arguments in named:
        words = [next(iter(group)) for group in (arguments[:1], arguments[1:2]) if group]
        known = (
            words
            if words[0] in ("adapters", "vision", "steer", "data", "feedback", "rag", "diagnose", "benchmark")
            else words[:1]
        )
        assert main([*known, "--help"]) == 0
        shown = capfd.readouterr().out
        assert not [word for word in arguments if word.startswith("--") and word not in shown], arguments


def test_the_map_names_what_is_there() -> None:
    entries = list(map_entries())
    assert not [entry for entry in entries if not (ROOT / entry).is_dir()]
    rooms = {path.parent.name for path in (ROOT / "mlx_loopai").glob("*/__init__.py")}
    assert rooms == {Path(entry).name for entry in entries if Path(entry).parent.name == "mlx_loopai"} - {"assets"}


def map_entries() -> Iterator[str]:
    """The folders of the map, from the checkout's root."""
    block = next(block for block in BLOCKS if block[0] == "mlx_loopai/")
    top = ""
    for line in block:
        name = line.split()[0]
        if line.startswith(" "):
            yield f"{top}{name}"
        else:
            top = name
            yield name


def test_modules_named_in_the_map_exist() -> None:
    """`training/` lists its modules by name."""
    line = next(line for line in README.splitlines() if line.startswith("  training/"))
    named = re.findall(r"[a-z]+", re.sub(r"\([^)]*\)", "", line.partition("training/")[2]))
    assert not [name for name in named if not (ROOT / "mlx_loopai" / "training" / f"{name}.py").is_file()]
