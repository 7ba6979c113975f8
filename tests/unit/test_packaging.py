"""What is installed: the wheel's and the sdist's files, the locked versions, and the wheel at work on its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAX_WHEEL_BYTES = 20 << 20


def _build(kind: str, source: Path, out: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", out], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def _files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_both_packages_and_nothing_of_the_maintainers(wheel: Path) -> None:
    files = _files(wheel)
    assert {name.partition("/")[0] for name in files} == {
        "mlx_loopai",
        "converters",
        f"mlx_loopai-{_version()}.dist-info",
    }
    assert not [name for name in files if re.search(r"(^|/)(tests?|tools|bench|__pycache__)/|\.pyc$", name)]
    assert wheel.stat().st_size < MAX_WHEEL_BYTES


def test_the_wheel_holds_what_the_packages_read(wheel: Path) -> None:
    """Every file beside the code: recipes, the embedded model, sample texts, the server's page, the type marker."""
    files = _files(wheel)
    in_checkout = {
        path.relative_to(ROOT).as_posix()
        for package in ("mlx_loopai", "converters")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in files if ".dist-info/" not in name} == in_checkout
    assert {
        "mlx_loopai/assets/nano/model.safetensors",
        "mlx_loopai/py.typed",
        "mlx_loopai/recipes/korean-creative.yaml",
        "mlx_loopai/serving/page/page.html",
    } <= files


def test_the_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    sdist = _build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert (source / "requirements" / "locked.txt").is_file()
    assert (source / "tests").is_dir()
    assert _files(_build("wheel", source, tmp_path / "again")) == _files(wheel)


def _version() -> str:
    text = (ROOT / "mlx_loopai" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"', text, re.M)
    assert found
    return found[1]


def _asked() -> Iterator[Requirement]:
    """What the core and the extras of `make setup` ask for."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    extras = re.search(r"^EXTRAS := (\S+)$", makefile, re.M)
    assert extras
    yield from map(Requirement, PROJECT["dependencies"])
    for extra in extras[1].split(","):
        yield from map(Requirement, PROJECT["optional-dependencies"][extra])


def _pinned(file: str) -> dict[str, list[Version]]:
    """Package -> its versions; several where they differ by Python or system."""
    found: dict[str, list[Version]] = {}
    text = (ROOT / "requirements" / file).read_text(encoding="utf-8")
    for name, version in re.findall(r"^([\w.-]+)(?:\[\w+\])?==([\w.!+]+)", text, re.M):
        found.setdefault(canonicalize_name(name), []).append(Version(version))
    return found


@pytest.mark.parametrize("file", ["locked.txt", "lowest.txt"])
def test_the_lock_answers_what_is_asked(file: str) -> None:
    pinned = _pinned(file)
    stale = [
        str(wanted)
        for wanted in _asked()
        if not any(wanted.specifier.contains(version) for version in pinned.get(canonicalize_name(wanted.name), []))
    ]
    assert stale == [], f"requirements/{file} is stale: run `make lock` (needs uv)"


def test_every_locked_file_has_a_hash() -> None:
    entries = (ROOT / "requirements" / "locked.txt").read_text(encoding="utf-8").split("\n")
    starts = [number for number, line in enumerate(entries) if "==" in line]
    assert starts
    assert all(entries[number + 1].strip().startswith("--hash=sha256:") for number in starts)


LIBRARY = "import mlx_loopai as m; print(m.generate('태국의 수도는 어디인가요?').text)"


@pytest.mark.wheel
@pytest.mark.timeout(1200)
def test_the_wheel_works_on_its_own(wheel: Path, tmp_path: Path) -> None:
    """In a new environment, away from the checkout: the command, the embedded model, the library."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    bin_folder = tmp_path / "env" / "bin"
    subprocess.run([bin_folder / "pip", "install", "-q", "--disable-pip-version-check", wheel], check=True)

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd="/", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    program = bin_folder / "mlx-loopai"
    assert "--seed" in run(program, "demo", "--help")
    answer = json.loads(run(program, "generate", "태국의 수도는 어디인가요?", "--json", "--quiet"))
    assert "방콕" in answer["text"]
    python = bin_folder / "python"
    where = run(python, "-c", "import mlx_loopai, converters; print(mlx_loopai.__file__, converters.__file__)")
    assert str(ROOT) not in where
    assert "방콕" in run(python, "-c", LIBRARY)
