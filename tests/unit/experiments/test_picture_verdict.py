"""Runs whose result has no part in answers to text: what they kept is known, and the base answers all text exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from converters.fuse_folder import fuse
from converters.merge_adapters import Merge, merge
from converters.peft import write_peft
from converters.vision_encoder import add_encoder
from converters.writers.target import Target
from mlx_loopai.config import GenerationOptions, LoraOptions, validate_config
from mlx_loopai.data.images import given_picture
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.suites import read_suite
from mlx_loopai.evaluation.tasks import Asked
from mlx_loopai.experiments.evaluate import evaluate
from mlx_loopai.experiments.judged_run import train_and_judge
from mlx_loopai.experiments.verdict import FEWEST_STEPS
from mlx_loopai.generation.answer_stream import Writing
from mlx_loopai.generation.lineup import Lineup, LineupBatch, open_lineup
from mlx_loopai.generation.prompts import single_prompt
from mlx_loopai.library.writing import load
from mlx_loopai.models.adapter_folder import read_adapter
from mlx_loopai.models.adapters import save_adapter
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.runs.documents.verdict import JudgedSummary
from tests.tiny_vision_folder import write_vision_folder
from tests.unit.conftest import Heard

COLOURS = {"빨강": (230, 30, 30), "파랑": (30, 30, 230), "초록": (30, 180, 30), "검정": (10, 10, 10)}
ASKED = "무슨 색?"
WRITTEN = GenerationOptions(temperature=0, max_tokens=8, scripts="off", repetition_penalty=1, repetition_guard=0)
SAID = WRITTEN.model_dump(exclude_unset=True)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    lines = []
    for name, colour in COLOURS.items():
        for shade in range(4):
            picture = f"{name}{shade}.png"
            Image.new("RGB", (32, 32), tuple(min(255, part + 5 * shade) for part in colour)).save(folder / picture)
            lines.append({"prompt": ASKED, "completion": name, "images": [picture]})
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return file


def judged(model: Path, rows: Path, out: Path, **vision: Any) -> tuple[JudgedSummary, Heard]:
    values: dict[str, Any] = {
        "model": str(model),
        "sources": {"rows": {"path": str(rows)}},
        "validation_share": 0.25,
        "lora": {"rank": 4},
        "train": {"max_steps": 2 * FEWEST_STEPS, "rows_per_step": 4, "learning_rate": 1e-2, "bias_correction": True},
        "replay": {"source": "self", "share": 0.5, "loss_share": 0.4, "max_prompts": 4, "answer_tokens": 4},
        "forgetting": {"questions": 2},
        "vision": vision,
    }
    heard = Heard()
    found = train_and_judge(validate_config(values, "recipe"), out, heard)
    assert isinstance(found, JudgedSummary)
    return found, heard


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    return add_encoder(str(tiny_model_folder), "patches", tmp_path_factory.mktemp("seeing") / "model", grid=2).out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, seeing: Path, rows: Path) -> dict[str, Path]:
    """A run of an adapter for pictures alone, and one of a projector, each with its verdict looked at."""
    folder = tmp_path_factory.mktemp("runs")
    for name, vision in (("scoped", {"adapter_scope": "image"}), ("projector", {"trains": "projector"})):
        found, heard = judged(seeing, rows, folder / name, **vision)
        assert (found.retention, found.retention_min, found.retention_interval) == (1.0, 1.0, (1.0, 1.0))
        assert found.gain is not None
        assert found.gain > 0
        assert any("answered by the base itself" in notice for notice in heard.notices)
        assert found.samples
        assert all(sample.prompt.endswith(f".png] {ASKED}") for sample in found.samples)
        assert not any("questions" in stage for stage, _ in heard.stages)
    return {name: folder / name for name in ("scoped", "projector")}


def written(lineup: Lineup, name: str, text: str, picture: Path | None = None) -> str:
    """What a client gets of the model `name`."""
    session = lineup.sessions[name]
    prompt = single_prompt(text, [given_picture(picture)] if picture else [])
    ids = session.prompt_ids(prompt)
    request = session.request(ids, WRITTEN, pictures=session.pictures(prompt))
    writing, found = Writing(request), ""
    with LineupBatch(lineup, 4, lambda *read: None) as batch:
        batch.add(lineup.reader(name, request), request)
        for _ in range(4 * WRITTEN.max_tokens):
            for _, piece in batch.step():
                found += writing.take(piece.piece)
                if piece.last:
                    return found + writing.end()
    raise AssertionError("the answer did not end")


def test_text_is_the_base_s_in_every_way_of_writing(seeing: Path, runs: dict[str, Path], rows: Path) -> None:
    """In one server beside each other, too, each adapter sees with its own projector, and the base with its own."""
    picture = rows.parent / "빨강0.png"
    base = load(seeing, dtype="fp32")
    lineup = open_lineup(str(seeing), "base", list(runs.values()))
    seen = {"base": base.generate(ASKED, images=[picture], **SAID).text}
    for name, run in runs.items():
        tuned = load(seeing, run, dtype="fp32")
        for text in ("안녕?", ASKED):
            expected = base.generate(text, **SAID)
            assert tuned.generate(text, **SAID).text == expected.text
            assert written(lineup, f"base:{name}", text) == expected.text
        found = tuned.generate(ASKED, images=[picture], **SAID)
        assert found.adapter
        seen[f"base:{name}"] = found.text
    assert len(set(seen.values())) == len(seen)
    for _ in range(2):
        assert {name: written(lineup, name, ASKED, picture) for name in reversed(seen)} == seen


def test_a_caption_suite_asks_the_adapter_and_a_text_suite_the_base(
    seeing: Path, runs: dict[str, Path], rows: Path
) -> None:
    (rows.parent / "suite.yaml").write_text(
        "colours: {kind: caption, file: rows.jsonl, max_tokens: 8}\nqa: {kind: generate, file: qa.jsonl}\n"
    )
    (rows.parent / "qa.jsonl").write_text('{"prompt": "안녕?", "answer": "네"}\n', encoding="utf-8")
    [seen, control, text] = read_suite(str(rows.parent / "suite.yaml"))
    assert isinstance(control, Asked)
    assert isinstance(seen, Asked)
    assert (control.name, text.name) == ("colours_shuffled", "qa")
    pairs = list(zip(seen.items, control.items, strict=True))
    assert all(one.accepts == other.accepts and one.pictures != other.pictures for one, other in pairs)

    tuned, heard = load(seeing, runs["scoped"], dtype="fp32"), Heard()
    found = evaluate(str(seeing), runs["scoped"], str(rows.parent / "suite.yaml"), listener=heard)
    assert found.retention is None  # its base sees nothing that could be lost
    assert [("at chance" in notice, "pictures only" in notice) for notice in heard.notices] == [
        (True, False),
        (False, True),
    ]
    answers = [tuned.generate(ASKED, images=[one.pictures[0].path], **SAID).text for one in seen.items]
    right = [one.accepts[0] in answer for one, answer in zip(seen.items, answers, strict=True)]
    assert found.probes["colours"].score == sum(right) / len(right)
    assert found.probes["colours"].chance == 0.25
    assert found.probes["qa"].score == found.probes["qa"].base


def test_an_adapter_for_pictures_is_not_made_one_for_everything(tiny_model_folder: Path, tmp_path: Path) -> None:
    model = write_vision_folder(tmp_path / "vl", "qwen2_vl", tiny_model_folder)
    loaded = load_model(str(model), "fp32")
    options = LoraOptions(rank=2)
    apply_lora(loaded.model, options, seed=1)
    save_adapter(tmp_path / "adapter", loaded.model, options, loaded.base_hash, adapter_scope="image")
    adapter = read_adapter(tmp_path / "adapter")
    for made in (
        lambda: fuse(tmp_path / "adapter", str(model), tmp_path / "fused", Target()),
        lambda: merge([adapter], Merge()),
        lambda: write_peft(tmp_path / "peft", adapter),
    ):
        with pytest.raises(InputError, match="answers requests with pictures only"):
            made()  # type: ignore[no-untyped-call]
