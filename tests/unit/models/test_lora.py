from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from mlx_loopai.config import LoraOptions
from mlx_loopai.errors import InputError
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import (
    DoRALinear,
    LoRALinear,
    adapter_disabled,
    apply_lora,
    dense_weight,
    lora_modules,
    lora_scale,
)
from mlx_loopai.models.updated_linear import computes_as_base, linear_shape

IDS = mx.array(np.random.default_rng(0).integers(3, 300, (2, 9)))
ALL = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def fresh(folder: Path, quantised: bool = False) -> nn.Module:
    model = load_model(str(folder), "fp32").model
    if quantised:
        nn.quantize(model, group_size=32, bits=4)
    return model


def moved(model: nn.Module) -> nn.Module:
    """`model` with adapters that change its output."""
    mx.random.seed(9)
    for layer in lora_modules(model).values():
        layer.lora_b = 0.3 * mx.random.normal(layer.lora_b.shape)
    return model


def last_names(layers: dict[str, LoRALinear]) -> set[str]:
    return {name.rsplit(".", 1)[-1] for name in layers}


def test_scale() -> None:
    assert lora_scale(8, 16.0, rslora=False) == 2.0
    assert lora_scale(16, 8.0, rslora=True) == 2.0


@pytest.mark.parametrize("rslora", [False, True])
def test_a_layer_adds_its_scaled_product(rslora: bool) -> None:
    mx.random.seed(0)
    linear = nn.Linear(6, 4)
    layer = LoRALinear(linear, rank=4, scale=lora_scale(4, 12.0, rslora))
    layer.lora_b = mx.random.normal((4, 4))
    x = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    weight = np.array(linear.weight) + (6.0 if rslora else 3.0) * (np.array(layer.lora_a) @ np.array(layer.lora_b)).T
    assert np.allclose(np.array(layer(mx.array(x))), x @ weight.T + np.array(linear.bias), atol=1e-5)


@pytest.mark.parametrize("quantised", [False, True])
def test_all_linear_layers_of_all_blocks_get_an_adapter(tiny_model_folder: Path, quantised: bool) -> None:
    model = fresh(tiny_model_folder, quantised)
    shapes = {name: linear_shape(module) for name, module in model.named_modules() if name.endswith("_proj")}
    layers = apply_lora(model, LoraOptions(rank=3), seed=0)
    assert len(layers) == 2 * len(ALL)
    assert last_names(layers) == ALL
    assert next(iter(layers)).startswith("model.layers.0.")
    assert list(layers) == sorted(layers)
    for name, layer in layers.items():
        n_out, n_in = shapes[name]
        assert layer.lora_a.shape == (n_in, 3)
        assert layer.lora_b.shape == (3, n_out)


def test_only_the_adapters_learn(tiny_model_folder: Path) -> None:
    model = fresh(tiny_model_folder)
    apply_lora(model, LoraOptions(rank=3), seed=0)
    names = {name.rsplit(".", 1)[-1] for name, _ in tree_flatten(model.trainable_parameters())}
    assert names == {"lora_a", "lora_b"}


def test_targets_and_layers_select(tiny_model_folder: Path) -> None:
    chosen = apply_lora(fresh(tiny_model_folder), LoraOptions(targets=("q_proj", "down_proj")), seed=0)
    assert last_names(chosen) == {"q_proj", "down_proj"}
    assert len(chosen) == 4
    late = apply_lora(fresh(tiny_model_folder), LoraOptions(layers=1), seed=0)
    assert len(late) == len(ALL)
    assert all(name.startswith("model.layers.1.") for name in late)
    # More blocks than there are: all of them.
    assert len(apply_lora(fresh(tiny_model_folder), LoraOptions(layers=99), seed=0)) == 2 * len(ALL)


@pytest.mark.parametrize("targets", [("nowhere_proj",), ("q_proj", "nowhere_proj")])
def test_an_unknown_target_is_refused(tiny_model_folder: Path, targets: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"lora\.targets.*nowhere_proj"):
        apply_lora(fresh(tiny_model_folder), LoraOptions(targets=targets), seed=0)


def test_a_second_adapter_on_the_same_model_is_refused(tiny_model_folder: Path) -> None:
    model = fresh(tiny_model_folder)
    apply_lora(model, LoraOptions(), seed=0)
    with pytest.raises(InputError, match="already"):
        apply_lora(model, LoraOptions(), seed=0)


def test_a_seed_decides_the_adapter(tiny_model_folder: Path) -> None:
    def first(seed: int) -> dict[str, np.ndarray]:
        layers = apply_lora(fresh(tiny_model_folder), LoraOptions(rank=3), seed)
        return {name: np.array(layer.lora_a) for name, layer in layers.items()}

    one, same, other = first(1), first(1), first(2)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not any(np.array_equal(one[name], other[name]) for name in one)
    arrays = list(one.values())
    assert not np.array_equal(arrays[0], arrays[1])


@pytest.mark.parametrize("quantised", [False, True])
def test_switched_off_it_is_the_base_bit_for_bit(tiny_model_folder: Path, quantised: bool) -> None:
    model = fresh(tiny_model_folder, quantised)
    base = np.array(model(IDS))
    apply_lora(model, LoraOptions(rank=3), seed=0)
    assert np.array_equal(np.array(model(IDS)), base)  # B starts at zero
    moved(model)
    tuned = np.array(model(IDS))
    assert not np.allclose(tuned, base)
    with adapter_disabled(model):
        assert np.array_equal(np.array(model(IDS)), base)
    assert np.array_equal(np.array(model(IDS)), tuned)


def test_it_is_switched_on_again_after_an_error(tiny_model_folder: Path) -> None:
    model = fresh(tiny_model_folder)
    layers = apply_lora(model, LoraOptions(rank=3), seed=0)
    with pytest.raises(KeyError), adapter_disabled(model):
        raise KeyError
    assert all(layer.enabled for layer in layers.values())


def test_a_disabled_adapter_inside_a_disabled_one_stays_off(tiny_model_folder: Path) -> None:
    model = fresh(tiny_model_folder)
    layers = apply_lora(model, LoraOptions(rank=3), seed=0)
    with adapter_disabled(model):
        with adapter_disabled(model):
            pass
        assert not any(layer.enabled for layer in layers.values())
    assert all(layer.enabled for layer in layers.values())


def test_dropout_thins_the_input_while_training_only() -> None:
    linear = nn.Linear(500, 2, bias=False)
    layer = LoRALinear(linear, rank=1, scale=1.0, dropout=0.25)
    linear.weight = mx.zeros_like(linear.weight)
    layer.lora_a, layer.lora_b = mx.ones((500, 1)), mx.ones((1, 2))
    x = mx.ones((200, 500))
    layer.eval()
    assert np.array_equal(np.array(layer(x)), np.full((200, 2), 500.0))
    layer.train()
    mx.random.seed(0)
    thinned = np.array(layer(x))[:, 0]
    assert thinned.std() > 1
    assert thinned.mean() == pytest.approx(500, rel=0.01)


def test_layer_names_are_in_the_order_of_the_blocks() -> None:
    from mlx_loopai.models.load import build_model

    sizes = {"hidden_size": 8, "num_hidden_layers": 11, "intermediate_size": 8, "vocab_size": 16, "rms_norm_eps": 1e-6}
    model = build_model({"model_type": "qwen2", "num_attention_heads": 1, "num_key_value_heads": 1, **sizes})
    names = list(apply_lora(model, LoraOptions(rank=1, targets=("q_proj",)), seed=0))
    assert names == [f"model.layers.{index}.self_attn.q_proj" for index in range(11)]


FORMS = [("affine", bits) for bits in (2, 3, 4, 5, 6, 8)] + [("mxfp4", 4)]


@pytest.mark.parametrize(("mode", "bits"), [("dense", 0), *FORMS])
def test_dora_gives_the_adapted_rows_their_lengths(mode: str, bits: int) -> None:
    """Against the dense formula y = m W'/|W'| x + bias, whatever the width of the base."""
    mx.random.seed(0)
    linear: nn.Module = nn.Linear(64, 12)
    if bits:
        linear = nn.QuantizedLinear.from_linear(linear, group_size=32, bits=bits, mode=mode)
    layer = DoRALinear(linear, rank=4, scale=1.5)
    x = mx.random.normal((3, 64))
    assert np.allclose(np.array(layer(x)), np.array(linear(x)), atol=1e-5)  # B starts at zero
    layer.lora_b = mx.random.normal((4, 12))
    layer.m = layer.m * 1.25
    adapted = (
        np.array(dense_weight(linear).astype(mx.float32)) + 1.5 * (np.array(layer.lora_a) @ np.array(layer.lora_b)).T
    )
    expected = np.array(layer.m)[:, None] * adapted / np.linalg.norm(adapted, axis=1, keepdims=True)
    assert np.allclose(np.array(layer(x)), np.array(x) @ expected.T + np.array(linear.bias), atol=1e-4)


def test_half_precision_inputs_are_not_copied_and_gradients_stay_whole() -> None:
    linear = nn.Linear(8, 6)
    linear.set_dtype(mx.bfloat16)
    layer = LoRALinear(linear, rank=2, scale=2.0)
    linear.freeze()
    x = mx.random.normal((4, 8)).astype(mx.bfloat16)
    assert layer(x).dtype == mx.bfloat16
    _, gradient = nn.value_and_grad(layer, lambda: layer(x).astype(mx.float32).sum())()
    assert {array.dtype for _, array in tree_flatten(gradient)} == {mx.float32}


@pytest.mark.parametrize(("mode", "bits"), FORMS)
@pytest.mark.parametrize("dora", [False, True])
def test_a_quantised_base_of_any_width_learns(mode: str, bits: int, dora: bool) -> None:
    mx.random.seed(0)
    linear = nn.QuantizedLinear.from_linear(nn.Linear(64, 8), group_size=32, bits=bits, mode=mode)
    layer = (DoRALinear if dora else LoRALinear)(linear, rank=2, scale=2.0)
    linear.freeze()
    x, goal = mx.random.normal((16, 64)), mx.random.normal((16, 8))
    loss = nn.value_and_grad(layer, lambda: mx.square(layer(x) - goal).mean())
    first = loss()[0].item()
    for _ in range(20):
        _, gradient = loss()
        layer.update(tree_map(lambda array, pull: array - 0.1 * pull, layer.trainable_parameters(), gradient))
    assert loss()[0].item() < first - 0.02


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_that_has_learnt_nothing_computes_as_the_base(tiny_model_folder: Path, dora: bool) -> None:
    model, ids = fresh(tiny_model_folder), mx.array([[5, 6, 7, 8]])
    base = np.array(model(ids))
    layers = apply_lora(model, LoraOptions(rank=3, dora=dora), seed=1)
    # A DoRA layer with a bias rounds once more.
    assert computes_as_base(model) is not dora
    if not dora:
        np.testing.assert_array_equal(np.array(model(ids)), base)
    next(iter(layers.values())).lora_b = mx.ones_like(next(iter(layers.values())).lora_b)
    assert not computes_as_base(model)
