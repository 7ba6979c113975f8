"""The same logits and the same bits in PEFT itself, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx_loopai  # noqa: F401

# isort: split
import mlx.core as mx
import numpy as np
import pytest

from converters.convert import convert
from converters.peft import read_peft, unused_fields, write_peft
from mlx_loopai.config import LoraOptions
from mlx_loopai.errors import InputError
from mlx_loopai.models.adapter_folder import read_adapter, write_adapter
from mlx_loopai.models.adapters import load_adapter, save_adapter
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import apply_lora
from tests.parity.tiny_models import KINDS, TOKENS, TOKENS_OF_TEXT, tiny_model
from tests.tiny_files import write_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = [
    pytest.mark.parity,
    # PEFT asks transformers under a name that goes away.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


def base_folders(tmp_path: Path, kind: str = "Qwen2") -> tuple[Path, Path]:
    """A random model as transformers and as MLX keep it."""
    source = write_tokenizer(tmp_path / "source", TOKENS_OF_TEXT)
    tiny_model(kind, **KINDS[kind]).save_pretrained(source)
    convert(source, tmp_path / "mlx", dtype="fp32")
    return source, tmp_path / "mlx"


def our_logits(base: Path, adapter: Path) -> np.ndarray:
    model = load_model(str(base), "fp32").model
    load_adapter(model, adapter)
    return np.array(model(mx.array(TOKENS)))


def their_base(source: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()


def their_logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.numpy()


OPTIONS = {
    "plain": LoraOptions(rank=3, alpha=12.0),
    "rslora": LoraOptions(rank=5, alpha=4.0, rslora=True),
    "last blocks": LoraOptions(rank=2, alpha=8.0, layers=2),
    "some": LoraOptions(rank=2, alpha=8.0, targets=("q_proj", "down_proj")),
}


@pytest.mark.parametrize(
    ("kind", "options"), [*[("Qwen2", name) for name in OPTIONS], ("Qwen3", "plain"), ("GPTNeoX", "plain")]
)
def test_our_adapter_in_peft_and_back(tmp_path: Path, kind: str, options: str) -> None:
    source, base = base_folders(tmp_path, kind)
    loaded, lora = load_model(str(base), "fp32"), OPTIONS[options]
    for layer in apply_lora(loaded.model, lora, seed=1).values():
        layer.lora_b = 0.3 * mx.random.normal(layer.lora_b.shape)
    save_adapter(tmp_path / "ours", loaded.model, lora, loaded.base_hash)
    write_peft(tmp_path / "peft", read_adapter(tmp_path / "ours"), str(source))
    wanted = our_logits(base, tmp_path / "ours")
    model = peft.PeftModel.from_pretrained(their_base(source), tmp_path / "peft").eval()
    assert np.abs(their_logits(model) - wanted).max() < 1e-4 * max(1, np.abs(wanted).max())
    assert np.abs(their_logits(their_base(source)) - wanted).max() > 0.1

    model.save_pretrained(tmp_path / "again")
    back = read_peft(tmp_path / "again", n_blocks=3)
    first = read_adapter(tmp_path / "ours")
    assert (back.scale, back.factors.keys()) == (first.scale, first.factors.keys())
    for name, pair in first.factors.items():
        assert all(mx.array_equal(x, y) for x, y in zip(back.factors[name], pair, strict=True)), name


@pytest.mark.parametrize("rslora", [False, True])
def test_our_adapter_of_uneven_ranks_in_peft(tmp_path: Path, rslora: bool) -> None:
    source, base = base_folders(tmp_path)
    loaded, lora = load_model(str(base), "fp32"), LoraOptions(rank=3, alpha=12.0, rslora=rslora)
    ranks = {"model.layers.0.self_attn.q_proj": 1, "model.layers.1.mlp.down_proj": 6, "model.layers.2.mlp.up_proj": 2}
    for layer in apply_lora(loaded.model, lora, 1, ranks).values():
        layer.lora_b = 0.3 * mx.random.normal(layer.lora_b.shape)
    save_adapter(tmp_path / "ours", loaded.model, lora, loaded.base_hash)
    write_peft(tmp_path / "peft", read_adapter(tmp_path / "ours"), str(source))
    wanted = our_logits(base, tmp_path / "ours")
    model = peft.PeftModel.from_pretrained(their_base(source), tmp_path / "peft").eval()
    assert np.abs(their_logits(model) - wanted).max() < 1e-4 * max(1, np.abs(wanted).max())


def theirs(source: Path, folder: Path, **options: Any) -> np.ndarray:
    """An adapter that PEFT made and saved; its logits."""
    torch.manual_seed(0)
    options = {"target_modules": ["q_proj", "v_proj", "up_proj"]} | options
    config = peft.LoraConfig(task_type="CAUSAL_LM", **options)
    model = peft.get_peft_model(their_base(source), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return their_logits(model)


@pytest.mark.parametrize(
    "options",
    [
        {"r": 4, "lora_alpha": 8},
        {"r": 4, "lora_alpha": 8, "use_rslora": True},
        {"r": 4, "lora_alpha": 8, "layers_to_transform": [1]},
        {"r": 4, "lora_alpha": 8, "rank_pattern": {"up_proj": 2}, "alpha_pattern": {"up_proj": 10}},
        {
            "r": 4,
            "lora_alpha": 8,
            "rank_pattern": {r"layers\.1\..*": 2},
            "alpha_pattern": {"model.layers.0.mlp.up_proj": 9},
        },
        {"r": 4, "lora_alpha": 8, "init_lora_weights": "orthogonal"},
        {"r": 4, "lora_alpha": 8, "init_lora_weights": "gaussian"},
    ],
    ids=["plain", "rslora", "one block", "patterns", "patterns of a layer", "orthogonal", "gaussian"],
)
def test_an_adapter_that_peft_made(tmp_path: Path, options: dict[str, Any]) -> None:
    source, base = base_folders(tmp_path)
    wanted = theirs(source, tmp_path / "peft", **options)
    assert unused_fields(tmp_path / "peft") == ()
    write_adapter(tmp_path / "ours", read_peft(tmp_path / "peft", n_blocks=3))
    assert np.abs(our_logits(base, tmp_path / "ours") - wanted).max() < 1e-4 * max(1, np.abs(wanted).max())


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_2", "olora"])
def test_an_adapter_of_a_changed_base_is_refused(tmp_path: Path, start: str) -> None:
    source, _ = base_folders(tmp_path)
    theirs(source, tmp_path / "peft", r=4, lora_alpha=8, init_lora_weights=start)
    with pytest.raises(InputError, match=f"init_lora_weights is '{start}'"):
        read_peft(tmp_path / "peft")


def test_patterns_of_gpt_neox_layers(tmp_path: Path) -> None:
    source, base = base_folders(tmp_path, "GPTNeoX")
    config = {
        "alpha_pattern": {"gpt_neox.layers.0.attention.query_key_value": 64},
        "target_modules": ["query_key_value"],
    }
    wanted = theirs(source, tmp_path / "peft", r=4, lora_alpha=8, **config)
    write_adapter(tmp_path / "ours", read_peft(tmp_path / "peft", n_blocks=3))
    assert np.abs(our_logits(base, tmp_path / "ours") - wanted).max() < 1e-4 * max(1, np.abs(wanted).max())


def test_dora_is_refused_both_ways(tmp_path: Path) -> None:
    source, base = base_folders(tmp_path)
    theirs(source, tmp_path / "peft", r=4, lora_alpha=8, use_dora=True)
    with pytest.raises(InputError, match="use_dora"):
        read_peft(tmp_path / "peft")
    loaded, lora = load_model(str(base), "fp32"), LoraOptions(rank=2, dora=True)
    apply_lora(loaded.model, lora, seed=1)
    save_adapter(tmp_path / "ours", loaded.model, lora, loaded.base_hash)
    with pytest.raises(InputError, match="DoRA"):
        read_adapter(tmp_path / "ours")
