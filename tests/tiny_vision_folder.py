"""Tiny folders of models that read pictures, in every layout that is in use, made without transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_loopai.models.load import build_model
from mlx_loopai.models.vision.settings import VisionSettings, vision_settings
from mlx_loopai.models.vision.tower import Tower

VOCAB, HIDDEN = 304, 32
IMAGE, BEFORE, AFTER = 300, 301, 302
_TOWER: dict[str, Any] = {"num_heads": 2, "patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2}
_LATER: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": HIDDEN}
TOWERS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {**_TOWER, "depth": 2, "embed_dim": 16, "hidden_size": HIDDEN},
    "qwen2_5_vl": {**_TOWER, **_LATER, "depth": 2, "window_size": 16, "fullatt_block_indexes": [1]},
    "qwen3_vl": {
        **_TOWER, **_LATER, "depth": 3, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1],
    },
}  # fmt: skip
_TEXT: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": 3, "intermediate_size": 48,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}  # fmt: skip
SECTIONS = {"qwen2_vl": [1, 2, 1], "qwen2_5_vl": [2, 1, 1], "qwen3_vl": [2, 1, 1]}
PROCESSOR: dict[str, Any] = {
    "patch_size": 4, "temporal_patch_size": 2, "merge_size": 2, "min_pixels": 64, "max_pixels": 4096,
    "image_mean": [0.48, 0.45, 0.41], "image_std": [0.27, 0.26, 0.27], "resample": 3,
}  # fmt: skip
TEMPLATE_MARKS = {"image_token_id": IMAGE, "vision_start_token_id": BEFORE, "vision_end_token_id": AFTER}


def vision_config(family: str, nested: bool = True) -> dict[str, Any]:
    """config.json of `family`: as transformers 5 writes it, or flat as before."""
    head = {"head_dim": 8} if family == "qwen3_vl" else {}
    rope = {"mrope_section": SECTIONS[family], "rope_theta": 5000.0, "rope_type": "default"}
    tower = TOWERS[family] | {"model_type": family}
    top = {"model_type": family, "architectures": ["Any"], **TEMPLATE_MARKS, "eos_token_id": 2}
    if nested:
        text = {**_TEXT, **head, "model_type": f"{family}_text", "rope_parameters": rope}
        return {**top, "text_config": text, "vision_config": tower, "tie_word_embeddings": False}
    old = {"rope_scaling": {"type": "mrope", "mrope_section": SECTIONS[family]}, "rope_theta": 5000.0}
    return {**top, **_TEXT, **head, **old, "vision_config": tower}


def write_vision_folder(folder: Path, family: str, like: Path, layout: str = "transformers") -> Path:
    """A random model of `family` with the tokenizer of `like`. layout: transformers, old (before 5) or mlx."""
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(like / name, folder / name)
    config = vision_config(family, nested=layout != "old")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR), encoding="utf-8")
    settings = vision_settings(config, folder)
    assert settings is not None
    weights = random_weights(family, settings)
    named = {_name(name, layout): _kernel(name, array, settings, layout) for name, array in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), named, {"format": "mlx" if layout == "mlx" else "pt"})
    return folder


def random_weights(family: str, settings: VisionSettings) -> dict[str, mx.array]:
    """By transformers' names; the tower's begin with `visual.`. The same for every call."""
    mx.random.seed(11)
    text = {**_TEXT, "model_type": "qwen3" if family == "qwen3_vl" else "qwen2", "rope_theta": 5000.0, "head_dim": 8}
    found = dict(tree_flatten(build_model(text).parameters()))
    tower = Tower(settings.tower, settings.patches)
    found |= {f"visual.{name}": array for name, array in tree_flatten(tower.parameters())}
    # Wider than the usual initialisation: a picture must move the text's logits.
    return {name: array * 3 if array.ndim == 2 else array for name, array in found.items()}


def _name(name: str, layout: str) -> str:
    if layout == "old":
        return name
    if layout == "mlx":
        return name.replace("visual.", "vision_tower.") if name.startswith("visual.") else f"language_model.{name}"
    if name.startswith("visual."):
        return f"model.{name}"
    return name.replace("model.", "model.language_model.", 1)


def _kernel(name: str, array: mx.array, settings: VisionSettings, layout: str) -> mx.array:
    """The patch kernel as a convolution's, in the layout's order of axes."""
    if name != "visual.patch_embed.proj.weight":
        return array
    patches = settings.patches
    whole = array.reshape(-1, 3, patches.frames, patches.patch, patches.patch)
    return mx.contiguous(whole.transpose(0, 2, 3, 4, 1)) if layout == "mlx" else whole
