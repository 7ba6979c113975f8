"""The emoji experiment's program, on drawings that stand for two styles of the same signs."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image, ImageDraw

from mlx_loopai.config import load_config
from mlx_loopai.evaluation.suite_run import run_suite
from mlx_loopai.evaluation.suites import read_suite
from mlx_loopai.evaluation.tasks import Asked
from mlx_loopai.generation.session import open_session
from mlx_loopai.training.run import train
from tests.bench_programs import bench_program
from tests.unit.conftest import Heard

SIGNS = {"사과": "red", "바다": "blue", "나무": "green", "밤": "black"}


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return bench_program("emoji_captions")


@pytest.fixture(scope="module")
def made(program: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("emoji")
    names = [{"label": name, "hexcode": f"1F{place}AB", "group": 3} for place, name in enumerate(SIGNS)]
    names += [
        {"label": "이름이 세 낱말인 것", "hexcode": "1F0AB", "group": 3},
        {"label": "얼굴", "hexcode": "1F1AB", "group": 0},
        {"label": "그림 없음", "hexcode": "1FFFF", "group": 3},
        {"label": "사과", "hexcode": "1F3AB", "group": 3},
    ]
    (folder / "data.json").write_text(json.dumps(names, ensure_ascii=False), encoding="utf-8")
    for style, inset in (("one", 4), ("other", 14)):
        (folder / style).mkdir()
        for place, colour in enumerate(SIGNS.values()):
            image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
            ImageDraw.Draw(image).ellipse((inset, inset, 64 - inset, 64 - inset), fill=colour)
            image.save(folder / style / f"1f{place}ab.png")
    options = {"names": "data.json", "taught": "one", "asked": "other", "out": "made"}
    paths = [part for name, path in options.items() for part in (f"--{name}", str(folder / path))]
    program.main([*paths, "--model", "nano", "--encoder", "patches", "--epochs", "40"])
    return folder / "made"


def test_signs_with_a_short_name_and_both_pictures(made: Path) -> None:
    for part in ("taught", "asked"):
        rows = [json.loads(line) for line in (made / part / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
        assert sorted(row["completion"] for row in rows) == sorted(SIGNS)
    assert [task.name for task in read_suite(str(made / "suite.yaml"))] == [
        "taught", "taught_shuffled", "emoji", "emoji_shuffled",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("사과", True), ("사과.", True), ("사과입니다.", True), ("그림은 사과예요", True), ("빨간 사과와 나무", True),
        ("사과elsen", False), ("사과etto", False), ("사과즙", False), ("풋사과", False), ("Apple사과", False), ("사 과", False),
    ],
)  # fmt: skip
def test_a_name_counts_as_a_word_of_its_own_with_its_particles(made: Path, answer: str, right: bool) -> None:
    task = next(task for task in read_suite(str(made / "suite.yaml")) if task.name == "emoji")
    assert isinstance(task, Asked)
    asked = next(item for item in task.items if item.accepts == ("사과",))
    assert task.judge.verdict(asked, answer, True).right is right


def test_its_recipes_run_and_the_suite_asks(made: Path, tmp_path: Path) -> None:
    first = load_config(made / "projector.yaml", ("train.max_steps=1",))
    train(first, tmp_path / "first", Heard())
    second = load_config(made / "adapter.yaml", (f'vision.start="{tmp_path / "first"}"',))
    assert second.is_guarded
    assert second.vision.start == str(tmp_path / "first")
    assert second.train.epochs == 40
    session = open_session(str(made / "model"), tmp_path / "first", dtype="fp32")
    found = run_suite(session.loaded, session.tools.encoder, read_suite(str(made / "suite.yaml"), 2))
    assert [task.n for task in found.tasks] == [2, 2, 2, 2]
