"""kill -9 at random moments, flipped bits in every file that is trusted, and a disk that is full."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_loopai.models.load import NANO_FOLDER as NANO
from mlx_loopai.training.checkpoint import damaged_file

from .conftest import ROUNDS, Ended, Program

pytestmark = pytest.mark.stress

STEPS = ("--set", "train.max_steps=8", "--set", "train.save_every=2", "--set", "train.rows_per_step=4")
TRAIN = ("--model", "nano", "--plain", "--quiet", *STEPS)
CONVERT = ("convert", NANO, "--to", "hf", "--quiet")


def adapter_of(run: Path) -> bytes:
    return (run / "adapter" / "adapters.safetensors").read_bytes()


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="session")
def unbroken(program: Program, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    ended = program.run("train", "--data", rows, "--out", run, *TRAIN)
    assert ended.status == 0, ended.err
    return run


@pytest.fixture(scope="session")
def converted(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conversion that nothing disturbed."""
    out = tmp_path_factory.mktemp("converted") / "out"
    ended = program.run(*CONVERT, "--out", out)
    assert ended.status == 0, ended.err
    return out


@pytest.fixture(scope="session")
def index(program: Program, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "index"
    ended = program.run("rag", "build", rows, "--index", folder, "--quiet")
    assert ended.status == 0, ended.err
    return folder


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_killed_training_goes_on_to_the_same_adapter(
    program: Program, rows: Path, unbroken: Path, tmp_path: Path, seed: int
) -> None:
    moments, run = random.Random(seed), tmp_path / "run"
    for attempt in range(3):
        resume = ["--resume"] if (run / "checkpoints").exists() else []
        if attempt and not resume:
            shutil.rmtree(run, ignore_errors=True)
        program.killed_after(moments.uniform(1, 8), "train", "--data", rows, "--out", run, *TRAIN, *resume)
        if (run / "checkpoints").exists():
            assert all(damaged_file(found) is None for found in (run / "checkpoints").iterdir())
    resume = ["--resume"] if (run / "checkpoints").exists() or (run / "adapter").exists() else []
    ended = program.run("train", "--data", rows, "--out", run, *TRAIN, *resume)
    assert ended.status == 0, ended.err
    assert adapter_of(run) == adapter_of(unbroken)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_killed_conversion_leaves_all_of_the_model_or_no_final_name(
    program: Program, converted: Path, tmp_path: Path, seed: int
) -> None:
    out = tmp_path / "out"
    program.killed_after(random.Random(seed).uniform(0.3, 4), *CONVERT, "--out", out)
    is_whole = out.exists()
    assert not is_whole or bytes_of(out) == bytes_of(converted)
    again = program.run(*CONVERT, "--out", out)
    assert again.status == (2 if is_whole else 0), again.err


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_killed_index_build_leaves_a_whole_index_or_none(
    program: Program, rows: Path, tmp_path: Path, seed: int
) -> None:
    folder = tmp_path / "index"
    program.killed_after(random.Random(seed).uniform(0.3, 3), "rag", "build", rows, "--index", folder, "--quiet")
    found = program.run("rag", "search", "바람", "--index", folder, "--json")
    assert found.is_orderly, found.err
    assert found.status in (0, 2)
    assert program.run("rag", "build", rows, "--index", folder, "--quiet").status == 0
    assert program.run("rag", "search", "바람", "--index", folder, "--json").status == 0


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_killed_import_of_feedback_keeps_whole_rows(program: Program, tmp_path: Path, seed: int) -> None:
    source, target = tmp_path / "votes.jsonl", tmp_path / "feedback.jsonl"
    votes = [{"prompt": f"질문 {n}", "chosen": f"좋은 답 {n}", "rejected": f"나쁜 답 {n}"} for n in range(200)]
    source.write_text("".join(json.dumps(vote, ensure_ascii=False) + "\n" for vote in votes), encoding="utf-8")
    program.killed_after(random.Random(seed).uniform(0.3, 2), "feedback", "import", source, "--to", target, "--quiet")
    again = program.run("feedback", "import", source, "--to", target, "--quiet")
    assert again.status == 0, again.err
    kept = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert len(kept) == len(votes)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flipped(path: Path, seed: str) -> bytes:
    """The content of `path` before one bit of it is flipped."""
    whole, generator = path.read_bytes(), random.Random(seed)
    changed = bytearray(whole)
    changed[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
    path.write_bytes(changed)
    return whole


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_flipped_bit_in_a_checkpoint_is_named_and_the_intact_one_offered(
    program: Program, rows: Path, unbroken: Path, tmp_path: Path, seed: int
) -> None:
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    newest = max((run / "checkpoints").iterdir())
    path = random.Random(seed).choice(files_of(newest))
    flipped(path, f"{seed}")
    if damaged_file(newest) is None:
        pytest.skip("white space of the list of checksums")
    shutil.rmtree(run / "adapter")
    ended = program.run("train", "--data", rows, "--out", run, *TRAIN, "--resume")
    assert ended.is_orderly, ended.err
    assert ended.status == 2
    assert newest.name in ended.err
    assert "is intact" in ended.err
    assert len(list((run / "checkpoints").iterdir())) > 1
    shutil.rmtree(newest)
    assert program.run("train", "--data", rows, "--out", run, *TRAIN, "--resume").status == 0
    assert adapter_of(run) == adapter_of(unbroken)


def test_a_flipped_bit_in_any_file_of_an_index_is_no_other_answer(
    program: Program, index: Path, tmp_path: Path
) -> None:
    sound = program.run("rag", "search", "바람 골목", "--index", index, "--json")
    for number, file in enumerate(files_of(index)):
        copy = tmp_path / str(number)
        shutil.copytree(index, copy)
        flipped(copy / file.relative_to(index), f"{number}")
        found = program.run("rag", "search", "바람 골목", "--index", copy, "--json")
        assert found.is_orderly, found.err
        assert found.status == 2 or found.out.replace(str(copy), str(index)) == sound.out, file


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one MiB; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a small disk here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def is_full_disk(ended: Ended) -> bool:
    return ended.status == 1 and "space" in ended.err and ended.is_orderly


def test_a_full_disk_is_said_and_leaves_nothing_half(program: Program, rows: Path, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"\0" * 900_000)
    assert is_full_disk(program.run("convert", NANO, "--out", small_disk / "out", "--to", "hf", "--quiet"))
    assert is_full_disk(program.run("train", "--data", rows, "--out", small_disk / "run", *TRAIN))
    assert not (small_disk / "out").exists()
    assert not (small_disk / "run" / "adapter").exists()
    large = small_disk.parent / "large.txt"
    large.write_text(
        "\n\n".join(f"{n}번째 문단입니다. 바람이 분다 골목 끝에서." for n in range(20_000)), encoding="utf-8"
    )
    assert is_full_disk(program.run("rag", "build", large, "--index", small_disk / "index", "--quiet"))
    assert not (small_disk / "index").exists() or not any((small_disk / "index").iterdir())
