"""The workflows of CI run what a person can run: targets that exist, on the Pythons that are promised."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("path", [*WORKFLOWS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_make_targets_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = {word for line in re.findall(r"(?:run: |^)make ([a-z -]+)", text, re.M) for word in line.split()}
    named |= set(re.findall(r"test-(?:lowest|newest)", text))
    assert named
    assert not [target for target in named if not re.search(rf"^{target}:", MAKEFILE, re.M)]


def test_every_promised_python_is_tested_on_both_systems() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    promised = [line.rpartition(" ")[2] for line in project["classifiers"] if "Python :: 3." in line]
    matrix = _read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == promised
    assert {name.partition("-")[0] for name in matrix["os"]} == {"macos", "ubuntu"}
    assert project["requires-python"] == f">={promised[0]}"


def test_the_hooks_before_a_commit_are_the_checks() -> None:
    """Each tool of `make check` has its hook, and no hook asks for more."""
    recipe = re.search(r"^check: setup\n((?:\t.*\n)+)", MAKEFILE, re.M)
    assert recipe
    checks = {re.sub(r" \S*$", "", line.strip().removeprefix("$(BIN)/")).split()[0] for line in recipe[1].splitlines()}
    hooks = _read(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    assert {Path(hook["entry"].split()[0]).name for hook in hooks} == checks


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="no actionlint here; pre-commit and CI bring their own")
def test_actionlint_finds_nothing() -> None:
    done = subprocess.run(["actionlint", *WORKFLOWS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
