from __future__ import annotations

import mlx.core as mx
import mlx.optimizers as optimizers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_loopai.training import parameter_vectors
from mlx_loopai.training.parameter_vectors import ParameterVectors

SHAPES = {"a": (3, 4), "b": (5,), "c": (2, 2, 2), "d": (40,), "e": (1, 7)}


def tree(seed: int = 0) -> dict[str, mx.array]:
    generator = np.random.default_rng(seed)
    return {name: mx.array(generator.normal(size=shape).astype(np.float32)) for name, shape in SHAPES.items()}


@given(room=st.integers(1, 80))
def test_vectors_hold_every_array_once_and_no_more_than_their_room(room: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parameter_vectors, "VECTOR_ENTRIES", room)
        vectors = ParameterVectors(tree(), optimizers.SGD(1.0))
    joined = vectors.join(tree())
    assert all(vector.size <= max(room, 40) for vector in joined.values())
    for name, array in vectors.split(joined).items():
        assert array.shape == SHAPES[name]
        assert np.array_equal(np.array(array), np.array(tree()[name]))


@pytest.mark.parametrize(
    "optimizer", [optimizers.AdamW(1e-2), optimizers.SGD(1e-2, momentum=0.9), optimizers.Lion(1e-2)]
)
def test_an_update_of_vectors_is_the_update_of_each_array(optimizer: optimizers.Optimizer) -> None:
    alone = type(optimizer)(1e-2, momentum=0.9) if isinstance(optimizer, optimizers.SGD) else type(optimizer)(1e-2)
    vectors = ParameterVectors(tree(), optimizer)
    one, other = tree(), tree()
    for seed in (1, 2):
        one = alone.apply_gradients(tree(seed), one)
        other = vectors.split(optimizer.apply_gradients(vectors.join(tree(seed)), vectors.join(other)))
    for name, array in tree_flatten(one):
        assert np.array_equal(np.array(array), np.array(other[name])), name


@pytest.mark.parametrize("optimizer", [optimizers.Muon(1e-2), optimizers.Adafactor(1e-2)])
def test_optimizers_of_matrices_see_each_array_by_itself(optimizer: optimizers.Optimizer) -> None:
    joined = ParameterVectors(tree(), optimizer).join(tree())
    assert [vector.shape for vector in joined.values()] == list(SHAPES.values())
