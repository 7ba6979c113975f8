"""Ranks by importance: the budget is kept, the largest singular values get them, and every door carries them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.peft import read_peft, write_peft
from mlx_loopai.config import LoraOptions, RunConfig, load_config
from mlx_loopai.errors import InputError
from mlx_loopai.guards.importance import InputSample, measure_importance
from mlx_loopai.guards.observation import observe
from mlx_loopai.guards.sketch import sketch_penalty
from mlx_loopai.models.adapter_folder import read_adapter, with_one_rank, write_adapter
from mlx_loopai.models.adapters import load_adapter, save_adapter
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import apply_lora, lora_modules
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training.ranks import LEAST_SHARE, MOST_TIMES, shared_out, singular_values
from mlx_loopai.training.run import train
from tests.unit.conftest import Heard, batch, row

IDS = mx.array([[5, 9, 2, 30, 7, 11]])
FORM = LoraOptions(rank=4, alpha=8.0)


@settings(deadline=None)
@given(seed=st.integers(0, 1 << 16), rank=st.integers(1, 16))
def test_ranks_keep_the_budget_and_go_where_a_parameter_gains_most(seed: int, rank: int) -> None:
    generator = np.random.default_rng(seed)
    sizes = {f"layer{n}": (int(a), int(b)) for n, (a, b) in enumerate(generator.integers(8, 200, (6, 2)))}
    values = {
        name: np.sort(generator.exponential(10.0 ** generator.uniform(-2, 2), min(MOST_TIMES * rank, *size)))[::-1]
        for name, size in sizes.items()
    }
    found = shared_out(values, sizes, rank)
    least = max(1, int(LEAST_SHARE * rank))
    spent = sum(sum(sizes[name]) * found[name] for name in sizes)
    budget = rank * sum(map(sum, sizes.values()))
    assert spent <= budget
    assert all(min(least, len(values[name])) <= found[name] <= len(values[name]) for name in sizes)
    rest = [name for name in sizes if found[name] < len(values[name])]
    if rest:  # what is left buys no rank of any layer that could have more
        assert budget - spent < max(sum(sizes[name]) for name in rest)
    given_ = [values[n][found[n] - 1] ** 2 / sum(sizes[n]) for n in sizes if found[n] > least]
    wanted = [values[n][found[n]] ** 2 / sum(sizes[n]) for n in rest if budget - spent >= sum(sizes[n])]
    assert not given_ or not wanted or min(given_) >= max(wanted)


def test_the_sketch_has_the_singular_values_of_the_gradient(tiny_model_folder: Path) -> None:
    model = load_model(str(tiny_model_folder), "fp32").model
    layers = apply_lora(model, LoraOptions(rank=1), 0)
    batches = [batch([row(14, prompt=2, seed=seed)]) for seed in range(4)]
    found = singular_values(model, batches, most=16)
    for name in list(layers)[:3]:
        whole = np.zeros(layers[name].sizes)
        for one in batches:
            inputs, pulls, _ = observe(model, layers, one)
            whole += np.array(pulls[name])[0].T @ np.array(inputs[name])[0]
        wanted = np.linalg.svd(whole, compute_uv=False)[:16]
        # A sketch of 24 columns: the sum of squares within a third, the largest the largest.
        assert (found[name] ** 2).sum() == pytest.approx((wanted**2).sum(), rel=0.35)
        assert found[name][0] == pytest.approx(wanted[0], rel=0.4)
        assert (np.diff(found[name]) <= 0).all()


def uneven(folder: Path) -> tuple[object, dict[str, int]]:
    """The tiny model with an adapter whose ranks differ, and that does something."""
    loaded = load_model(str(folder), "fp32")
    names = list(apply_lora(load_model(str(folder), "fp32").model, FORM, 0))
    ranks = {name: 1 + number % 5 for number, name in enumerate(names)}
    for layer in apply_lora(loaded.model, FORM, 1, ranks).values():
        layer.lora_b = 0.1 * mx.random.normal(layer.lora_b.shape)
    return loaded, ranks


def test_an_adapter_of_uneven_ranks_is_saved_and_loaded_exactly(tiny_model_folder: Path, tmp_path: Path) -> None:
    loaded, ranks = uneven(tiny_model_folder)
    save_adapter(tmp_path / "adapter", loaded.model, FORM, loaded.base_hash)
    stored = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["mlx_loopai"]["ranks"]
    assert stored == {name: rank for name, rank in ranks.items() if rank != FORM.rank}
    again = load_model(str(tiny_model_folder), "fp32")
    load_adapter(again.model, tmp_path / "adapter", again.base_hash)
    assert np.array_equal(np.array(again.model(IDS)), np.array(loaded.model(IDS)))
    write_adapter(tmp_path / "copy", read_adapter(tmp_path / "adapter"))
    copied = load_model(str(tiny_model_folder), "fp32")
    load_adapter(copied.model, tmp_path / "copy")
    assert np.array_equal(np.array(copied.model(IDS)), np.array(loaded.model(IDS)))


def test_mlx_lm_refuses_it_by_name_and_reads_its_export(tiny_model_folder: Path, tmp_path: Path) -> None:
    from mlx_lm.tuner.utils import load_adapters

    loaded, _ = uneven(tiny_model_folder)
    save_adapter(tmp_path / "adapter", loaded.model, FORM, loaded.base_hash)
    with pytest.raises(ValueError, match="does not match model parameter shape"):
        load_adapters(load_model(str(tiny_model_folder), "fp32").model, str(tmp_path / "adapter"))
    write_adapter(tmp_path / "even", with_one_rank(read_adapter(tmp_path / "adapter")))
    theirs = load_adapters(load_model(str(tiny_model_folder), "fp32").model, str(tmp_path / "even"))
    np.testing.assert_allclose(np.array(theirs(IDS)), np.array(loaded.model(IDS)), atol=2e-5)


@pytest.mark.parametrize("rslora", [False, True])
def test_peft_gets_ranks_and_alphas_by_module(tiny_model_folder: Path, tmp_path: Path, rslora: bool) -> None:
    loaded, ranks = uneven(tiny_model_folder)
    form = FORM.model_copy(update={"rslora": rslora})
    save_adapter(tmp_path / "adapter", loaded.model, form, loaded.base_hash)
    adapter = read_adapter(tmp_path / "adapter")
    write_peft(tmp_path / "peft", adapter)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    for name, rank in ranks.items():
        if rank != FORM.rank:
            assert config["rank_pattern"][name] == rank
            root = rank**0.5 if rslora else rank
            assert config["alpha_pattern"][name] / root == pytest.approx(adapter.scale)
    back = read_peft(tmp_path / "peft", n_blocks=len(loaded.model.layers))
    for name, (a, b) in adapter.factors.items():
        ours, theirs = (
            adapter.scale * np.array(a @ b),
            back.scale * np.array(back.factors[name][0] @ back.factors[name][1]),
        )
        np.testing.assert_allclose(theirs, ours, atol=1e-6)


def test_broken_ranks_are_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    loaded, _ = uneven(tiny_model_folder)
    save_adapter(tmp_path / "adapter", loaded.model, FORM, loaded.base_hash)
    place = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(place.read_text())
    config["mlx_loopai"]["ranks"] = dict.fromkeys(config["mlx_loopai"]["ranks"], 0)
    place.write_text(json.dumps(config))
    for read in (lambda: read_adapter(tmp_path / "adapter"), lambda: load_adapter(loaded.model, tmp_path / "adapter")):
        with pytest.raises(InputError, match=r"mlx_loopai\.ranks is not a table"):
            read()


def test_a_run_trains_with_them_and_resumes_with_the_same(
    configure: Callable[..., RunConfig], tiny_model_folder: Path, tmp_path: Path, heard: Heard
) -> None:
    config = configure(lora__rank=4, lora__ranks="importance", train__epochs=2)
    train(config, tmp_path / "run", heard)
    ranks = json.loads(RunDirectory(tmp_path / "run").ranks.read_text())
    even = load_model(str(tiny_model_folder), "fp32").model
    sizes = {name: sum(layer.sizes) for name, layer in apply_lora(even, LoraOptions(rank=4), 0).items()}
    assert len(set(ranks.values())) > 1
    spent = sum(rank * sizes[name] for name, rank in ranks.items())
    assert 0.9 * 4 * sum(sizes.values()) < spent <= 4 * sum(sizes.values())
    model = load_model(str(tiny_model_folder), "fp32").model
    load_adapter(model, tmp_path / "run" / "adapter")
    assert {name: layer.lora_a.shape[1] for name, layer in lora_modules(model).items()} == ranks


def test_the_sketch_guard_weighs_uneven_ranks(tiny_model_folder: Path) -> None:
    loaded, _ = uneven(tiny_model_folder)
    general = [batch([row(9, prompt=2, seed=seed) for seed in range(3)])]
    state = measure_importance(loaded.model, general, sample=InputSample(7))
    wanted = 0.0
    for name, layer in lora_modules(loaded.model).items():
        moved = np.array(state.activations[name]) @ np.array(layer.update_matrix()).T
        wanted += state.coefficients[name] * (np.array(state.output[name]) * (moved**2).mean(axis=0)).sum()
    assert sketch_penalty(state)(loaded.model).item() == pytest.approx(wanted, rel=1e-4)


def test_a_guard_whose_measure_runs_share_refuses_them_by_name() -> None:
    with pytest.raises(InputError, match="lora.ranks importance depends on the run's rows"):
        load_config(None, {"lora.ranks": "importance", "penalty.kind": "hierarchical"})
