"""Models that read pictures: every layout opens, text is the plain model's, a prompt is the same in parts as whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from mlx_loopai.errors import InputError
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.load import LoadedModel, build_model, load_model
from mlx_loopai.models.loss import Head
from mlx_loopai.models.vision.patches import patches_of
from mlx_loopai.models.vision.pictures import Pictures, reading_at
from mlx_loopai.models.vision.reading import read_prompt
from mlx_loopai.models.vision.settings import vision_settings
from tests.tiny_vision_folder import AFTER, BEFORE, IMAGE, TOWERS, write_vision_folder

RNG = np.random.default_rng(2)
# (height, width): the second picture's sides differ, its windows are cut.
PICTURES = [RNG.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((16, 24), (40, 8))]


@pytest.fixture(scope="module", params=TOWERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    return write_vision_folder(tmp_path_factory.mktemp("vision") / "model", request.param, tiny_model_folder)


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return load_model(str(folder), "fp32")


def prompt(loaded: LoadedModel, pictures: list[np.ndarray] = PICTURES) -> tuple[list[int], Pictures]:
    assert loaded.vision is not None
    found = [loaded.vision.features(*patches_of(one, loaded.vision.settings.patches)) for one in pictures]
    ids, starts = [5, 9, 11], []
    for picture in found:
        ids.append(BEFORE)
        starts.append(len(ids))
        ids += [IMAGE] * picture.grid.features + [AFTER, 40, 41]
    return ids, Pictures.of(len(ids), starts, found, three_positions=True)


def logits(loaded: LoadedModel, ids: list[int], pictures: Pictures | None = None, checkpointing: bool = False) -> Any:
    head = Head.of(loaded.model)
    states = hidden_states(loaded.model, mx.array([ids]), checkpointing, pictures=pictures)
    return np.array(head.project(head.arrays, states, transpose=True))[0]


@pytest.mark.parametrize("layout", ["old", "mlx"])
@pytest.mark.parametrize("family", TOWERS)
def test_every_layout_is_the_same_model(family: str, layout: str, tmp_path: Path, tiny_model_folder: Path) -> None:
    folders = [write_vision_folder(tmp_path / one, family, tiny_model_folder, one) for one in ("transformers", layout)]
    first, second = (load_model(str(folder), "fp32") for folder in folders)
    expected, found = (logits(one, *prompt(one)) for one in (first, second))
    assert np.array_equal(expected, found)


def test_for_text_it_is_the_plain_text_model(folder: Path, loaded: LoadedModel) -> None:
    config = json.loads((folder / "config.json").read_text())["text_config"]
    kind = config["model_type"].removesuffix("_text")
    plain = build_model(config | {"model_type": "qwen3" if kind == "qwen3_vl" else "qwen2", "rope_theta": 5000.0})
    weights = mx.load(str(folder / "model.safetensors"))
    plain.load_weights(
        [(name.replace("language_model.", ""), array) for name, array in weights.items() if "visual" not in name]
    )
    ids = mx.array([RNG.integers(0, 280, 17).tolist()])
    assert np.array_equal(np.array(loaded.model(ids)), np.array(plain(ids)))


def test_a_picture_moves_what_follows_it_and_nothing_before(loaded: LoadedModel) -> None:
    ids, pictures = prompt(loaded)
    _, others = prompt(loaded, [255 - one for one in PICTURES])
    before, first = logits(loaded, ids, pictures), ids.index(IMAGE)
    after = logits(loaded, ids, others)
    assert np.array_equal(before[:first], after[:first])
    assert np.abs(before[-1] - after[-1]).max() > 1e-3


def test_checkpointing_changes_nothing(loaded: LoadedModel) -> None:
    ids, pictures = prompt(loaded)
    assert np.array_equal(logits(loaded, ids, pictures), logits(loaded, ids, pictures, checkpointing=True))


@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
def test_a_prompt_is_the_same_in_parts_as_whole(loaded: LoadedModel, chunk: int) -> None:
    ids, pictures = prompt(loaded)
    expected = logits(loaded, ids, pictures)
    cache = make_prompt_cache(loaded.model)
    read_prompt(loaded.model, cache, ids[:-1], pictures, chunk)
    with reading_at(loaded.model, pictures.positions):
        last = np.array(loaded.model(mx.array([ids[-1:]]), cache=cache))[0, -1]
        more = np.array(loaded.model(mx.array([[7, 8]]), cache=cache))[0]
    assert np.abs(last - expected[-1]).max() < 1e-5
    # The text that goes on stands at the positions behind the pictures, which are fewer than their tokens.
    longer = [*ids, 7, 8]
    which = mx.concatenate([pictures.which, mx.zeros((1, 2), mx.int32)], axis=1)
    assert pictures.positions is not None
    following = pictures.positions.max() + 1 + mx.broadcast_to(mx.arange(2), (3, 1, 2))
    whole = Pictures(
        which, pictures.features, mx.concatenate([pictures.positions, following], axis=2), pictures.deepstack
    )
    assert np.abs(more - logits(loaded, longer, whole)[-2:]).max() < 1e-5


def test_the_model_is_left_as_it_was(loaded: LoadedModel) -> None:
    ids = RNG.integers(0, 280, 9).tolist()
    before = logits(loaded, ids)
    asked, pictures = prompt(loaded)
    read_prompt(loaded.model, make_prompt_cache(loaded.model), asked, pictures)
    assert np.array_equal(before, logits(loaded, ids))


def change(folder: Path, file: str, edit: dict[str, Any]) -> None:
    path = folder / file
    found = json.loads(path.read_text())
    for name, value in edit.items():
        place = found
        *outer, last = name.split(".")
        for part in outer:
            place = place[part]
        place[last] = value
    path.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("file", "edit", "said"),
    [
        ("config.json", {"vision_config.num_heads": 3}, "heads of a multiple of 4"),
        ("config.json", {"vision_config.depth": "two"}, "depth is 'two'"),
        ("config.json", {"vision_config.hidden_act": "swish"}, "hidden_act is 'swish'"),
        ("config.json", {"vision_config.hidden_size": 48}, "48 wide, the text model is 32"),
        ("config.json", {"vision_config.patch_size": 8}, "patch_size is 4 where the tower reads 8"),
        ("config.json", {"image_token_id": -1}, "image_token_id is -1"),
        ("config.json", {"text_config.rope_parameters.mrope_section": [1, 1, 1]}, r"mrope_section \[1, 1, 1\]"),
        ("preprocessor_config.json", {"image_mean": [1, 2]}, "image_mean is"),
        ("preprocessor_config.json", {"do_normalize": False}, "do_normalize is False"),
        ("preprocessor_config.json", {"min_pixels": 9000}, "which is not a range"),
        ("preprocessor_config.json", {"resample": 0}, "resample is not 3"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(
    tmp_path: Path, tiny_model_folder: Path, file: str, edit: dict[str, Any], said: str
) -> None:
    own = write_vision_folder(tmp_path / "own", "qwen2_vl", tiny_model_folder)
    change(own, file, edit)
    with pytest.raises(InputError, match=said):
        vision_settings(json.loads((own / "config.json").read_text()), own)


def test_a_folder_that_does_not_say_how_pixels_are_scaled_is_refused(tmp_path: Path, tiny_model_folder: Path) -> None:
    own = write_vision_folder(tmp_path / "own", "qwen2_vl", tiny_model_folder)
    (own / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="neither preprocessor_config.json nor processor_config.json"):
        load_model(str(own), "fp32")


def test_a_tower_without_its_tensors_is_named(tmp_path: Path, tiny_model_folder: Path) -> None:
    own = write_vision_folder(tmp_path / "own", "qwen2_vl", tiny_model_folder)
    weights = mx.load(str(own / "model.safetensors"))
    del weights["model.visual.merger.ln_q.weight"]
    mx.save_safetensors(str(own / "model.safetensors"), weights, {"format": "pt"})
    broken = load_model(str(own), "fp32")
    with pytest.raises(InputError, match="the vision tower: .*ln_q"):
        prompt(broken)
