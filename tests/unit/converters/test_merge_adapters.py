from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlx_loopai  # noqa: F401

# isort: split
import mlx.core as mx
import mlx_lm.utils
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.merge_adapters import Merge, dare, merge, ties, truncate_dense, truncate_factors
from mlx_loopai.errors import InputError
from mlx_loopai.models.adapter_folder import Adapter, read_adapter, scaled, write_adapter
from mlx_loopai.models.adapters import load_adapter
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import lora_modules

SIZES = {"q_proj": (32, 32), "v_proj": (32, 16)}
IDS = mx.array(np.random.default_rng(0).integers(3, 300, (2, 9)))


def adapter(rank: int, seed: int, names: tuple[str, ...] = ("q_proj", "v_proj"), alpha: float = 8.0) -> Adapter:
    rng = np.random.default_rng(seed)

    def pair(name: str) -> tuple[mx.array, mx.array]:
        n_in, n_out = SIZES[name]
        a, b = rng.normal(0, 0.3, (n_in, rank)), rng.normal(0, 0.3, (rank, n_out))
        return mx.array(a.astype(np.float32)), mx.array(b.astype(np.float32))

    factors = {f"model.layers.{layer}.self_attn.{name}": pair(name) for layer in range(2) for name in sorted(names)}
    return Adapter(factors, rank, alpha, notes={"base_hash": "b" * 64})


def delta(one: Adapter, name: str) -> np.ndarray:
    if name not in one.factors:
        return np.zeros(SIZES[name.rpartition(".")[2]])
    a, b = one.factors[name]
    return one.scale * (np.array(a).astype(np.float64) @ np.array(b).astype(np.float64))


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.integers(1, 16), st.floats(0.5, 40)), min_size=1, max_size=4),
    st.lists(st.floats(-3, 3), min_size=4, max_size=4),
)
def test_cat_is_the_weighted_sum(parts: list[tuple[int, float]], weights: list[float]) -> None:
    adapters = [
        adapter(rank, seed, ("q_proj",) if seed == 1 else ("q_proj", "v_proj"), alpha)
        for seed, (rank, alpha) in enumerate(parts)
    ]
    found = merge(adapters, Merge(weights=tuple(weights[: len(adapters)]))).adapter
    assert found.rank == sum(rank for rank, _ in parts)
    for name in found.factors:
        wanted = sum(weight * delta(one, name) for weight, one in zip(weights, adapters, strict=False))
        assert np.allclose(delta(found, name), wanted, atol=1e-5 * max(1.0, np.abs(wanted).max()))


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 12), st.floats(0.1, 64))
def test_merging_one_with_weight_one_changes_nothing(rank: int, alpha: float) -> None:
    one = adapter(rank, 0, alpha=alpha)
    found = merge([one], Merge()).adapter
    assert (found.rank, found.alpha, found.factors.keys()) == (one.rank, one.alpha, one.factors.keys())
    for name, pair in one.factors.items():
        assert all(mx.array_equal(x, y) for x, y in zip(found.factors[name], pair, strict=True))


@pytest.mark.parametrize("rank", [1, 3, 12, 20])
def test_svd_is_the_best_of_its_rank(rank: int) -> None:
    adapters = [adapter(4, 0), adapter(8, 1, alpha=3.0)]
    merged = merge(adapters, Merge("svd", (1.0, -0.5), rank))
    assert merged.adapter.rank == rank
    for name in merged.adapter.factors:
        wanted = delta(adapters[0], name) - 0.5 * delta(adapters[1], name)
        s = np.linalg.svd(wanted, compute_uv=False)
        best = np.linalg.norm(s[rank:]) / np.linalg.norm(s)
        assert merged.errors[name] == pytest.approx(best, abs=1e-6)
        reached = np.linalg.norm(delta(merged.adapter, name) - wanted) / np.linalg.norm(wanted)
        assert reached == pytest.approx(best, abs=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 9), st.integers(0, 99))
def test_dense_and_factored_truncation_agree(n_in: int, n_out: int, rank: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n_in, 4)), rng.normal(size=(4, n_out))
    one, other = truncate_factors(a, b, rank), truncate_dense(a @ b, rank)
    assert np.allclose(one[0] @ one[1], other[0] @ other[1], atol=1e-4)
    assert one[2] == pytest.approx(other[2], abs=1e-6)


def test_ties_by_hand() -> None:
    one, two = np.array([[4.0, -1.0, 0.1, 3.0]]), np.array([[2.0, 5.0, -0.2, -4.0]])
    # Half is kept: {4, 3} and {5, -4}; the signs' sums are 4, 5, 0 and -1.
    assert ties([one, two], 0.5).tolist() == [[4.0, 5.0, 0.0, -4.0]]
    assert ties([one], 1.0).tolist() == one.tolist()


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(0, 50))
def test_ties_with_a_plain_reference(count: int, seed: int) -> None:
    deltas = list(np.random.default_rng(seed).normal(size=(count, 3, 5)))
    found = ties(deltas, 0.4)
    for place in np.ndindex(3, 5):
        values = [d[place] for d in deltas if abs(d[place]) >= sorted(abs(d).ravel())[-6]]
        sign = np.sign(sum(values))
        agreeing = [value for value in values if np.sign(value) == sign]
        assert found[place] == pytest.approx(sum(agreeing) / len(agreeing) if agreeing else 0.0)


def test_dare_keeps_the_sum_in_expectation_and_its_seed() -> None:
    deltas = [np.full((40, 50), 2.0), np.full((40, 50), -1.0)]
    found = dare(deltas, 0.25, np.random.default_rng(3))
    assert set(np.unique(found)) <= {0.0, 8.0, -4.0, 4.0}
    assert found.mean() == pytest.approx(1.0, abs=0.3)
    adapters = [adapter(4, 0), adapter(8, 1)]
    one, two, three = (merge(adapters, Merge("dare", rank=8, seed=seed)).adapter for seed in (1, 1, 2))
    name = next(iter(one.factors))
    assert mx.array_equal(one.factors[name][0], two.factors[name][0])
    assert not np.allclose(delta(one, name), delta(three, name))


def test_full_density_makes_dare_the_sum() -> None:
    adapters = [adapter(4, 0), adapter(8, 1)]
    found = merge(adapters, Merge("dare", rank=12, density=1.0)).adapter
    for name in found.factors:
        assert np.allclose(delta(found, name), delta(adapters[0], name) + delta(adapters[1], name), atol=1e-5)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (Merge(weights=(1.0,)), "1 numbers for 2 adapters"),
        (Merge(rank=4), "belongs to svd"),
        (Merge("ties", density=0.0), "not above 0"),
        (Merge(weights=(1.0, float("nan"))), "finite"),
    ],
)
def test_wrong_options_are_refused(how: Merge, message: str) -> None:
    with pytest.raises(InputError, match=message):
        merge([adapter(4, 0), adapter(8, 1)], how)


def test_another_base_is_refused_unless_forced_or_unknown() -> None:
    one, other = adapter(4, 0), replace(adapter(8, 1), notes={"base_hash": "c" * 64})
    with pytest.raises(InputError, match="different bases"):
        merge([one, other], Merge())
    assert merge([one, other], Merge(), force=True).adapter.rank == 12
    assert merge([one, replace(other, notes={})], Merge()).adapter.base_hash == one.base_hash


def test_cat_gives_logits_of_the_summed_deltas(tiny_model_folder: Path, tmp_path: Path) -> None:
    ranks = (4, 8, 16)
    adapters = [adapter(rank, rank, alpha=2.0 * rank) for rank in ranks]
    write_adapter(tmp_path / "merged", merge(adapters, Merge(weights=(1.0, 0.5, 2.0))).adapter)
    merged = load_model(str(tiny_model_folder), "fp32")
    load_adapter(merged.model, tmp_path / "merged")
    found = np.array(merged.model(IDS))

    summed = load_model(str(tiny_model_folder), "fp32")
    for index, layer in enumerate(summed.model.layers):
        for part in ("q_proj", "v_proj"):
            linear = getattr(layer.self_attn, part)
            name = f"model.layers.{index}.self_attn.{part}"
            total = sum(w * delta(one, name) for w, one in zip((1.0, 0.5, 2.0), adapters, strict=True))
            linear.weight = linear.weight + mx.array(total.T.astype(np.float32))
    wanted = np.array(summed.model(IDS))
    assert np.abs(found - np.array(load_model(str(tiny_model_folder), "fp32").model(IDS))).max() > 0.1
    assert np.abs(found - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max())
    # mlx-lm takes it as well.
    theirs = mlx_lm.utils.load(str(tiny_model_folder), adapter_path=str(tmp_path / "merged"))[0]
    assert np.allclose(np.array(theirs(IDS)), found, atol=1e-5 * np.abs(wanted).max())


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    one = adapter(5, 0)
    write_adapter(tmp_path / "a", one)
    back = read_adapter(tmp_path / "a")
    assert (back.rank, back.alpha, back.notes) == (one.rank, one.alpha, one.notes)
    assert all(mx.array_equal(back.factors[name][0], one.factors[name][0]) for name in one.factors)
    card = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    assert "Not measured" in card
    assert "b" * 64 in card
    with pytest.raises(InputError, match="never overwritten"):
        write_adapter(tmp_path / "a", one)


def test_scaled_multiplies_the_update(tiny_model_folder: Path, tmp_path: Path) -> None:
    one = adapter(4, 0)
    found = scaled(one, 0.5, lambda block: 1.0 + block)
    for name in one.factors:
        block = int(name.split(".")[2])
        assert np.allclose(delta(found, name), 0.5 * (1 + block) * delta(one, name), rtol=1e-6)
    assert found.delta_norm(name) == pytest.approx(np.linalg.norm(delta(found, name)), rel=1e-5)
    write_adapter(tmp_path / "a", found)
    model = load_model(str(tiny_model_folder), "fp32").model
    load_adapter(model, tmp_path / "a")
    assert {module.scale for module in lora_modules(model).values()} == {found.scale}
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["lora_parameters"]["scale"] == found.scale
