from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx_loopai  # noqa: F401

# isort: split
import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from converters.peft import read_peft, unused_fields, write_peft
from mlx_loopai.errors import InputError
from mlx_loopai.models.adapter_folder import read_adapter, write_adapter
from mlx_loopai.models.adapters import load_adapter
from mlx_loopai.models.load import load_model

CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "target_modules": ["q_proj", "down_proj"],
    "bias": "none",
    "base_model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct",
}
SIZES = {"self_attn.q_proj": (32, 32), "mlp.down_proj": (64, 32)}


def tensors(blocks: range = range(2), rank: int = 4, dtype: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {}
    for block in blocks:
        for name, (n_in, n_out) in SIZES.items():
            prefix = f"base_model.model.model.layers.{block}.{name}"
            found[f"{prefix}.lora_A.weight"] = rng.normal(size=(rank, n_in)).astype(dtype)
            found[f"{prefix}.lora_B.weight"] = rng.normal(size=(n_out, rank)).astype(dtype)
    return found


def peft_folder(path: Path, arrays: dict[str, np.ndarray] | None = None, **changes: Any) -> Path:
    path.mkdir()
    save_file(tensors() if arrays is None else arrays, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps(CONFIG | changes))
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("rslora", [False, True])
def test_there_and_back_keeps_every_bit(tmp_path: Path, dtype: type, rslora: bool) -> None:
    source = peft_folder(tmp_path / "peft", tensors(dtype=dtype), use_rslora=rslora)
    write_adapter(tmp_path / "ours", read_peft(source))
    write_peft(tmp_path / "back", read_adapter(tmp_path / "ours"))
    wanted, found = (
        load_file(source / "adapter_model.safetensors"),
        load_file(tmp_path / "back" / "adapter_model.safetensors"),
    )
    assert found.keys() == wanted.keys()
    assert all(found[name].dtype == dtype and np.array_equal(found[name], wanted[name]) for name in wanted)
    config = json.loads((tmp_path / "back" / "adapter_config.json").read_text())
    for key in ("r", "lora_alpha", "lora_dropout", "base_model_name_or_path"):
        assert config[key] == CONFIG[key]
    assert config["use_rslora"] is rslora
    assert sorted(config["target_modules"]) == sorted(CONFIG["target_modules"])


def test_the_other_way_round_keeps_every_bit(tmp_path: Path) -> None:
    adapter = read_peft(peft_folder(tmp_path / "p"))
    write_peft(tmp_path / "q", adapter)
    again = read_peft(tmp_path / "q")
    assert again.scale == adapter.scale
    assert all(
        mx.array_equal(x, y)
        for name, pair in adapter.factors.items()
        for x, y in zip(again.factors[name], pair, strict=True)
    )


def test_a_subset_of_blocks_needs_the_base_and_gets_zeros_after_it(tmp_path: Path) -> None:
    source = peft_folder(tmp_path / "peft", tensors(range(1, 2)), layers_to_transform=[1])
    with pytest.raises(InputError, match="`base`"):
        read_peft(source)
    adapter = read_peft(source, n_blocks=3)
    assert {int(name.split(".")[2]) for name in adapter.factors} == {1, 2}
    assert not any(factor.any().item() for name, pair in adapter.factors.items() if ".2." in name for factor in pair)


def test_ranks_and_scales_of_their_own_are_folded_in(tmp_path: Path) -> None:
    arrays = tensors(rank=4)
    small = {name: array for name, array in tensors(rank=2).items() if "down_proj" in name}
    source = peft_folder(
        tmp_path / "peft",
        {name: small.get(name, array) for name, array in arrays.items()},
        rank_pattern={"down_proj": 2},
        alpha_pattern={"down_proj": 10},
    )
    adapter = read_peft(source)
    for name, (a, b) in adapter.factors.items():
        prefix = f"base_model.model.{name}"
        own = small if "down_proj" in name else arrays
        wanted = (5.0 if "down_proj" in name else 4.0) * own[f"{prefix}.lora_B.weight"] @ own[f"{prefix}.lora_A.weight"]
        assert a.shape[1] == 4
        assert np.allclose(adapter.scale * np.array(a @ b).T, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"r": 0}, "r is 0"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'.*path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "pissa_niter_16"}, "pissa_niter_16"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"init_lora_weights": "corda"}, "corda"),
        ({"init_lora_weights": "loftq"}, "loftq"),
        ({"init_lora_weights": "lora_ga"}, "lora_ga"),
        ({"init_lora_weights": "of tomorrow"}, "of tomorrow"),
        ({"init_lora_weights": 1}, "init_lora_weights is '1'"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens.*invocation tokens"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"target_parameters": ["mlp.experts"]}, "target_parameters"),
        ({"alpha_pattern": {"q_proj": "8"}}, "alpha_pattern is"),
        ({"alpha_pattern": {"(": 8}}, "not a regular expression"),
        ({"alpha_pattern": {"[" + "a" * 600 + "]": 8}}, "has 602 characters"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_peft(peft_folder(tmp_path / "peft", **changes))


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "base_model.model.lm_head.weight",
        "base_model.model.lm_head.lora_A.weight",
    ],
)
def test_tensors_that_are_no_lora_of_a_block_are_refused_by_name(tmp_path: Path, name: str) -> None:
    source = peft_folder(tmp_path / "peft", tensors() | {name: np.zeros((4, 32), np.float32)})
    with pytest.raises(InputError, match=r"lm_head|lora_embedding_A|lora_magnitude_vector"):
        read_peft(source)


def test_an_export_has_a_card_and_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = read_peft(peft_folder(tmp_path / "peft"))
    write_peft(tmp_path / "out", adapter, "OWNER/BASE")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for line in ("library_name: peft", "base_model: OWNER/BASE", "| rank | 4 |"):
        assert line in card.splitlines()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("converters.peft.write_settings", full)
    with pytest.raises(OSError, match="No space"):
        write_peft(tmp_path / "half", adapter)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "peft"]


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "eva", "orthogonal"])
def test_a_start_that_leaves_the_base_alone_is_read(tmp_path: Path, start: Any) -> None:
    assert read_peft(peft_folder(tmp_path / "peft", init_lora_weights=start)).rank == 4


def test_fields_that_nothing_knows_are_named(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "peft", use_tomorrow=True, tomorrow_config=None, use_rslora=True)
    assert unused_fields(folder) == ("use_tomorrow",)


def test_a_pattern_that_names_a_layer_reaches_that_layer_alone(tmp_path: Path) -> None:
    """mlx-lm calls the blocks of gpt_neox otherwise, so such a pattern once matched nothing."""
    rng = np.random.default_rng(0)
    arrays = {
        f"base_model.model.gpt_neox.layers.{block}.attention.query_key_value.lora_{part}.weight": rng.normal(
            size=shape
        ).astype(np.float32)
        for block in range(3)
        for part, shape in (("A", (4, 32)), ("B", (96, 4)))
    }
    patterns = {"gpt_neox.layers.0.attention.query_key_value": 64, r"layers\.[12]\.attention\..*": 32}
    adapter = read_peft(peft_folder(tmp_path / "peft", arrays, alpha_pattern=patterns))
    for block, own in enumerate((16.0, 8.0, 8.0)):
        a, b = adapter.factors[f"model.h.{block}.attention.query_key_value"]
        prefix = f"base_model.model.gpt_neox.layers.{block}.attention.query_key_value"
        wanted = own * arrays[f"{prefix}.lora_B.weight"] @ arrays[f"{prefix}.lora_A.weight"]
        assert np.allclose(adapter.scale * np.array(a @ b).T, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pattern", ["(a+)+b", "((.*)*)*x", "(model|mod.l)*(.+)+!", "(.*a){12}"])
def test_a_pattern_made_to_match_for_ever_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    monkeypatch.setattr("converters.peft._PATTERNS_S", 0.05)
    arrays = {name.replace("q_proj", "q" + "a" * 60 + "_proj"): array for name, array in tensors().items()}
    source = peft_folder(tmp_path / "peft", arrays, alpha_pattern={pattern: 8})
    try:
        assert read_peft(source).rank == 4
    except InputError as error:
        assert "takes too long to match" in str(error)


def test_an_import_without_a_base_says_so_where_it_does_not_fit(tmp_path: Path, tiny_model_folder: Path) -> None:
    """An adapter of the first blocks cannot be told from one of a shorter model."""
    source = peft_folder(tmp_path / "peft", tensors(range(1)))
    write_adapter(tmp_path / "guessed", read_peft(source))
    model = load_model(str(tiny_model_folder)).model
    with pytest.raises(InputError, match=r"model with 1 blocks; this one has 2: import it again with `base`"):
        load_adapter(model, tmp_path / "guessed")
    write_adapter(tmp_path / "counted", read_peft(source, n_blocks=2))
    assert load_adapter(model, tmp_path / "counted").layers == 2
