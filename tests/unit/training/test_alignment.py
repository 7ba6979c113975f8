"""A projector's lesson in words: it gives, for each picture, what the words of its answer are to the text model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from converters.vision_encoder import add_encoder
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.models.decoder import word_vectors
from mlx_loopai.models.load import LoadedModel, load_model
from mlx_loopai.models.micro_batch import PictureRows
from mlx_loopai.models.vision.projector import projector_of
from mlx_loopai.training.alignment import align_projector

END = 2
# Of each row: the words of its answer, before the end of the turn.
ANSWERS = ((40, 41), (52,), (63, 64, 65))


@pytest.fixture
def seeing(tmp_path: Path, tiny_model_folder: Path) -> LoadedModel:
    return load_model(str(add_encoder(str(tiny_model_folder), "patches", tmp_path / "model", grid=2).out), "fp32")


def rows(width: int) -> list[TokenRow]:
    """A picture of two features each, and a row without any."""
    features = np.random.default_rng(0).normal(size=(2 * len(ANSWERS), width)).astype(np.float32)
    found = [TokenRow(np.array([5, 6, END], np.int32), np.array([False, True, True]), "text", "domain")]
    for number, answer in enumerate(ANSWERS):
        ids = np.array([7, 8, 8, 9, *answer, END], np.int32)
        supervised = np.arange(len(ids)) > 3
        which = np.zeros((1, len(ids)), np.int64)
        which[0, 1:3] = 1 + 2 * number + np.arange(2)
        seen = PictureRows(which, features)
        found.append(TokenRow(ids, supervised, f"row {number}", "domain", seen=seen))
    return found


def aligned(loaded: LoadedModel, some: Sequence[TokenRow], steps: int, seed: int = 0) -> dict[str, mx.array]:
    heard: list[int] = []
    align_projector(loaded.model, some, [END], steps, seed, lambda done, note="": heard.append(done))
    assert heard == list(range(1, steps + 1))
    projector = projector_of(loaded.model)
    assert projector is not None
    return dict(tree_flatten(projector.parameters()))


def test_each_feature_lies_where_the_words_of_its_answer_lie(seeing: LoadedModel) -> None:
    assert seeing.vision is not None
    projector = projector_of(seeing.model)
    assert projector is not None
    some = rows(projector.into.weight.shape[1])
    wanted = np.stack([np.array(word_vectors(seeing.model, mx.array(one))).mean(axis=0) for one in ANSWERS])
    features = mx.array(np.stack([row.seen.features for row in some[1:2] if row.seen is not None])[0])
    before = np.array(projector(features))
    # It begins at the size of the words.
    assert 0.3 < np.sqrt((before**2).mean()) / np.sqrt((wanted**2).mean()) < 3
    aligned(seeing, some, 300)
    found = np.array(projector(features))
    distance = np.square(found[:, None] - wanted[None]).mean(axis=2)
    assert distance.argmin(axis=1).tolist() == [0, 0, 1, 1, 2, 2]
    assert distance.min(axis=1).mean() < 0.5 * np.square(wanted).mean()


def test_it_is_the_same_again_and_the_text_model_stays(seeing: LoadedModel) -> None:
    projector = projector_of(seeing.model)
    assert projector is not None
    some, text = rows(projector.into.weight.shape[1]), mx.array([[5, 6, 7]])
    logits, start = np.array(seeing.model(text)), tree_flatten(projector.parameters())
    first = aligned(seeing, some, 3)
    assert np.array_equal(np.array(seeing.model(text)), logits)
    projector.load_weights(start)
    again = aligned(seeing, some, 3)
    projector.load_weights(start)
    other = aligned(seeing, some, 3, seed=1)
    assert all(mx.array_equal(first[name], again[name]) for name in first)
    assert not mx.array_equal(first["out.weight"], other["out.weight"])


def test_rows_without_pictures_or_words_teach_nothing(seeing: LoadedModel) -> None:
    projector = projector_of(seeing.model)
    assert projector is not None
    some = rows(projector.into.weight.shape[1])
    silent = TokenRow(np.array([7, 8, 8, 9, END], np.int32), np.arange(5) > 3, "silent", "domain", seen=some[1].seen)
    before = dict(tree_flatten(projector.parameters()))
    align_projector(seeing.model, [some[0], silent], [END], 2, 0, lambda done, note="": None)
    assert all(mx.array_equal(before[name], array) for name, array in tree_flatten(projector.parameters()))
