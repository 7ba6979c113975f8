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

from converters.peft import read_peft, write_peft
from mlx_loopai.errors import InputError
from mlx_loopai.models.adapter_folder import read_adapter, write_adapter

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
