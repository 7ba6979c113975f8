"""Tiny random models that read pictures, as transformers builds and saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.tiny_models import SHAPE, TOKENS_OF_TEXT
from tests.tiny_files import write_tokenizer

IMAGE_TOKEN, VIDEO_TOKEN, BEFORE, AFTER = 90, 91, 88, 89
_IDS = {
    "image_token_id": IMAGE_TOKEN,
    "video_token_id": VIDEO_TOKEN,
    "vision_start_token_id": BEFORE,
    "vision_end_token_id": AFTER,
}
# No block count, width or window is a default of transformers' or ours.
TOWERS: dict[str, dict[str, Any]] = {
    "Qwen2VL": {"depth": 3, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 3, "patch_size": 4},
    "Qwen2_5_VL": {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 40,
        "out_hidden_size": 64,
        "num_heads": 2,
        "patch_size": 4,
        # 3 x 3 features: most pictures pass it, and its windows are cut at the edge.
        "window_size": 24,
        "fullatt_block_indexes": [1],
    },
    "Qwen3VL": {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 40,
        "out_hidden_size": 64,
        "num_heads": 2,
        "patch_size": 4,
        "num_position_embeddings": 25,
        "deepstack_visual_indexes": [0, 2],
    },
}
SECTIONS = {"Qwen2VL": [1, 2, 1], "Qwen2_5_VL": [2, 1, 1], "Qwen3VL": [4, 4, 4]}
_TEXT: dict[str, dict[str, Any]] = {"Qwen3VL": {"head_dim": 24}}


def tiny_vision_model(kind: str, tied: bool = False) -> Any:
    """A random model of `kind` whose every parameter differs from its initial constant."""
    import torch
    import transformers

    torch.manual_seed(3)
    rope = {"rope_type": "default", "rope_theta": 777.0, "mrope_section": SECTIONS[kind]}
    text = SHAPE | _TEXT.get(kind, {}) | {"rope_parameters": rope, "tie_word_embeddings": tied}
    config = getattr(transformers, f"{kind}Config")(
        text_config=text, vision_config=dict(TOWERS[kind]), tie_word_embeddings=tied, **_IDS
    )
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            usual = 1.0 if "norm" in name or "ln_q.weight" in name else 0.0
            parameter.copy_(torch.randn_like(parameter) * 0.12 + usual)
    return model


def processor(kind: str) -> Any:
    """transformers' picture processor with the patches of `kind`."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    colours = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if kind == "Qwen3VL" else {}
    patch = TOWERS[kind]["patch_size"]
    return Qwen2VLImageProcessorPil(patch_size=patch, min_pixels=16 * 16, max_pixels=64 * 64, **colours)


def save(model: Any, kind: str, folder: Path) -> Path:
    """The model's folder, with a tokenizer and the processor's file, as a release has them."""
    write_tokenizer(folder, TOKENS_OF_TEXT)
    model.save_pretrained(folder)
    processor(kind).save_pretrained(folder)
    return folder
