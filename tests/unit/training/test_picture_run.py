"""Runs on rows with pictures: what they teach, what stays, and that a batch of them is the sum of its rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image, ImageDraw

from converters.vision_encoder import add_encoder
from mlx_loopai.config import GenerationOptions, LoraOptions, RunConfig, TrainPath, load_config
from mlx_loopai.data.batches import collate
from mlx_loopai.data.images import given_picture
from mlx_loopai.errors import InputError
from mlx_loopai.generation.answers import write_answers
from mlx_loopai.generation.prompts import single_prompt
from mlx_loopai.generation.session import open_session
from mlx_loopai.models.adapter_folder import read_adapter
from mlx_loopai.models.adapters import adapter_arrays
from mlx_loopai.models.gradient import DEFAULT_FORM, Targets, compiled_gradient, eager_gradient
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.models.vision.pictures import Pictures
from mlx_loopai.models.vision.projector import projector_of
from mlx_loopai.runs.context import RunContext
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training.run import train
from mlx_loopai.training.seeing import shelve_pictures
from tests.tiny_vision_folder import write_vision_folder
from tests.unit.conftest import Heard

COLOURS = {"빨강": (230, 30, 30), "파랑": (30, 30, 230), "초록": (30, 180, 30), "검정": (10, 10, 10)}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures of one colour each, each asked for its colour, and a row without any."""
    folder = tmp_path_factory.mktemp("rows")
    found: list[dict[str, Any]] = [{"prompt": "안녕?", "completion": "안녕하세요."}]
    for name, colour in COLOURS.items():
        image = Image.new("RGB", (40, 24), "white")
        ImageDraw.Draw(image).rectangle((4, 4, 30, 20), fill=colour)
        image.save(folder / f"{name}.png")
        found.append({"prompt": "무슨 색?", "completion": name, "images": [f"{name}.png"]})
    file = folder / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in found), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """The tiny text model with the encoder `patches`."""
    return add_encoder(str(tiny_model_folder), "patches", tmp_path_factory.mktemp("seeing") / "model").out


@pytest.fixture
def configure(rows: Path, seeing: Path) -> Callable[..., RunConfig]:
    def build(model: Path = seeing, data: Path = rows, **options: Any) -> RunConfig:
        values = {"train.rows_per_step": 5, "train.learning_rate": 1e-2, "train.max_steps": 6, "lora.rank": 2} | options
        overrides = tuple(f"{name}={json.dumps(value)}" for name, value in values.items())
        sources = {"colours": {"path": str(data)}}
        return load_config(None, overrides, {"model": str(model), "sources": sources})

    return build


def stages(heard: Heard) -> list[str]:
    return [name for name, _ in heard.stages]


def text_logits(model: Path, adapter: Path | None = None) -> bytes:
    session = open_session(str(model), adapter, dtype="fp32")
    ids = session.prompt_ids(single_prompt("오늘은 날씨가 어떤가요?"))
    return np.array(session.loaded.model(mx.array([ids]))).tobytes()


def test_a_projector_learns_and_text_stays_byte_for_byte(
    configure: Callable[..., RunConfig], seeing: Path, tmp_path: Path
) -> None:
    first, again = Heard(), Heard()
    summary = train(configure(**{"vision.trains": "projector"}), tmp_path / "run", first)
    assert summary.loss_last < summary.loss_first
    stored = mx.load(str(tmp_path / "run/adapter/adapters.safetensors"))
    assert {name.split(".")[0] for name in stored} == {"vision_projector"}
    assert text_logits(seeing, tmp_path / "run") == text_logits(seeing)
    with pytest.raises(InputError, match="brings a projector for pictures, which is not merged"):
        read_adapter(tmp_path / "run/adapter")
    # The features of an earlier run of the same base serve again, and the same run gives the same bytes.
    train(configure(**{"vision.trains": "projector"}), tmp_path / "again", again)
    assert ("reading pictures" in stages(first), "reading pictures" in stages(again)) == (True, False)
    written = [(tmp_path / run / "adapter/adapters.safetensors").read_bytes() for run in ("run", "again")]
    assert written[0] == written[1]


def test_an_adapter_goes_on_from_a_projector(configure: Callable[..., RunConfig], seeing: Path, tmp_path: Path) -> None:
    train(configure(**{"vision.trains": "projector"}), tmp_path / "one", Heard())
    options = {"vision.start": str(tmp_path / "one"), "vision.adapter_scope": "image", "train.max_steps": 2}
    summary = train(configure(**options), tmp_path / "two", Heard())
    one = train(configure(**{"train.max_steps": 2}), tmp_path / "other", Heard())
    assert summary.loss_first < one.loss_first
    assert {name.split(".")[0] for name in mx.load(str(tmp_path / "two/adapter/adapters.safetensors"))} == {
        "model",
        "vision_projector",
    }
    session = open_session(str(seeing), tmp_path / "two", dtype="fp32")
    ids = session.prompt_ids(single_prompt("안녕?"))
    assert not session.uses_adapter(ids)
    assert session.uses_adapter(ids, shows_pictures=True)


def test_a_projector_is_fitted_to_an_adapter_that_stays(
    configure: Callable[..., RunConfig], seeing: Path, tmp_path: Path
) -> None:
    train(configure(), tmp_path / "both", Heard())
    both = str(tmp_path / "both")
    options = {"vision.trains": "projector", "vision.start": both, "lora.start": both}
    config = configure(**options)
    assert config.answers_text  # what was kept is measured: text is no longer the base's
    summary = train(config, tmp_path / "fitted", Heard())
    assert summary.loss_last < summary.loss_first
    before, after = (mx.load(str(tmp_path / run / "adapter/adapters.safetensors")) for run in ("both", "fitted"))
    changed = {name for name in before if not mx.array_equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert changed == {name for name in before if name.startswith("vision_projector.")}
    assert text_logits(seeing, tmp_path / "fitted") == text_logits(seeing, tmp_path / "both")
    assert text_logits(seeing, tmp_path / "fitted") != text_logits(seeing)


def test_an_adapter_for_pictures_does_not_become_one_for_text(
    configure: Callable[..., RunConfig], tmp_path: Path
) -> None:
    train(configure(**{"vision.adapter_scope": "image", "train.max_steps": 1}), tmp_path / "one", Heard())
    options = {"lora.start": str(tmp_path / "one"), "vision.start": str(tmp_path / "one")}
    with pytest.raises(InputError, match=r"answers requests with pictures only; set vision\.adapter_scope: image"):
        train(configure(**options), tmp_path / "two", Heard())


def test_an_aligned_projector_begins_elsewhere(
    configure: Callable[..., RunConfig], seeing: Path, tmp_path: Path, tiny_model_folder: Path
) -> None:
    options: dict[str, Any] = {"vision.trains": "projector", "vision.align_steps": 5, "train.max_steps": 1}
    heard = Heard()
    summary = train(configure(**options), tmp_path / "run", heard)
    assert ("aligning pictures with words", 5) in heard.stages
    plain = train(configure(**options | {"vision.align_steps": 0}), tmp_path / "plain", Heard())
    assert summary.loss_first != plain.loss_first
    assert text_logits(seeing, tmp_path / "run") == text_logits(seeing)
    with pytest.raises(
        InputError, match=r"vision\.align_steps 5: vision\.start begins with a projector that is taught"
    ):
        train(configure(**options, **{"vision.start": str(tmp_path / "run")}), tmp_path / "two", Heard())
    native = write_vision_folder(tmp_path / "vl", "qwen2_vl", tiny_model_folder)
    with pytest.raises(InputError, match="a projector is to be taught, and this model has none"):
        train(configure(native, **{"vision.align_steps": 5, "train.max_steps": 1}), tmp_path / "three", Heard())


def test_a_run_on_text_leaves_the_projector(configure: Callable[..., RunConfig], tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text('{"prompt": "안녕?", "completion": "안녕하세요."}\n', encoding="utf-8")
    train(configure(data=text, **{"train.max_steps": 1}), tmp_path / "run", Heard())
    assert not any("projector" in name for name in mx.load(str(tmp_path / "run/adapter/adapters.safetensors")))


@pytest.mark.parametrize("family", ["added", "qwen2_vl", "qwen3_vl"])
def test_a_batch_is_the_sum_of_its_rows(
    family: str,
    configure: Callable[..., RunConfig],
    path: TrainPath,
    tiny_model_folder: Path,
    tmp_path: Path,
    seeing: Path,
) -> None:
    """Rows with and without pictures, padded to one width, on both paths, with checkpointed blocks too."""
    model = seeing if family == "added" else write_vision_folder(tmp_path / "vl", family, tiny_model_folder)
    context = RunContext.open(configure(model), RunDirectory(tmp_path / "run"), Heard())
    network = context.base.load("fp32").model
    shelve_pictures(context)
    apply_lora(network, LoraOptions(rank=2), seed=1)
    if (projector := projector_of(network)) is not None:
        projector.unfreeze()
    mx.random.seed(4)
    network.update(mx_random(network))
    found = context.rows.sources["colours"]
    build = compiled_gradient if path == "compiled" else eager_gradient
    gradient = build(network, DEFAULT_FORM)

    def computed(some: list[Any], form: Any = gradient) -> tuple[float, dict[str, np.ndarray]]:
        batch = collate(some, max(len(row.ids) for row in found) + 3)
        seen = Pictures.of_rows(batch.pictures)
        (loss, _), pulled = form(mx.array(batch.ids[:, :-1]), Targets.of(batch), seen)
        return float(loss), {name: np.array(array) for name, array in tree_flatten(pulled)}

    whole, together = computed(found)
    parts = [computed([row]) for row in found]
    assert whole == pytest.approx(sum(loss for loss, _ in parts), rel=1e-5)
    checkpointed = build(network, type(DEFAULT_FORM)(checkpointing=True))
    again, pulled = computed(found, checkpointed)
    assert again == pytest.approx(whole, rel=1e-6)
    for name, array in together.items():
        expected = sum(part[name] for _, part in parts)
        scale = max(np.abs(expected).max(), 1e-3)
        assert np.abs(array - expected).max() <= 1e-4 * scale, name
        assert np.abs(pulled[name] - array).max() <= 1e-4 * scale, name


def mx_random(network: Any) -> Any:
    """Factors of adapters that are not zero, so that every one has a gradient."""
    from mlx.utils import tree_unflatten

    return tree_unflatten(
        [
            (name, 0.05 * mx.random.normal(array.shape))
            for name, array in adapter_arrays(network).items()
            if name.endswith("lora_b")
        ]
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"selection.kind": "stm"}, "selection.kind: rows with pictures are not learnt with it"),
        ({"vision.start": "/nowhere"}, "no such folder"),
    ],
)
def test_options_that_pictures_exclude(
    options: dict[str, Any], said: str, configure: Callable[..., RunConfig], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        train(configure(**options), tmp_path / "run", Heard())


def test_a_text_model_names_the_row(
    configure: Callable[..., RunConfig], tiny_model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"rows\.jsonl:2: .*this model reads text only"):
        train(configure(tiny_model_folder), tmp_path / "run", Heard())


def test_pictures_in_general_rows_are_refused(configure: Callable[..., RunConfig], rows: Path, tmp_path: Path) -> None:
    config = configure(**{"general": str(rows), "replay.source": "records", "replay.share": 0.5})
    with pytest.raises(InputError, match="a row with pictures where only text is read"):
        train(config, tmp_path / "run", Heard())


def test_the_picture_decides_the_answer(
    configure: Callable[..., RunConfig], rows: Path, seeing: Path, tmp_path: Path
) -> None:
    """The tiny model names the colour of each picture that it learnt, and of an exchanged picture that one's colour."""
    train(configure(**{"train.max_steps": 80, "lora.rank": 8}), tmp_path / "run", Heard())
    session = open_session(str(seeing), tmp_path / "run", dtype="fp32")
    options = GenerationOptions(temperature=0, max_tokens=12, scripts="off", repetition_penalty=1, repetition_guard=0)
    asked = []
    for name in COLOURS:
        prompt = single_prompt("무슨 색?", [given_picture(rows.parent / f"{name}.png")])
        ids = session.prompt_ids(prompt)
        asked.append(session.request(ids, options, pictures=session.pictures(prompt)))
    assert len({tuple(request.prompt) for request in asked}) == 1  # only the pictures differ
    answers = dict(write_answers(session.loaded, asked))
    assert [answers[place].text.text for place in range(len(asked))] == list(COLOURS)
