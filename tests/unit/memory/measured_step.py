"""Runs real training steps on a tiny random Qwen2 and reads what MLX needed: what predictions are held against."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers
from mlx_lm.models.qwen2 import Model, ModelArgs

from mlx_loopai.config import LoraOptions
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.models.loss import PLAIN
from mlx_loopai.models.shape import ModelShape
from mlx_loopai.training.gradient import Targets, eager_gradient

DTYPES = {"fp32": mx.float32, "bf16": mx.bfloat16}


@dataclass(frozen=True)
class Case:
    """One configuration of a training step; the defaults are a small model."""

    vocab: int = 2000
    hidden: int = 256
    inner: int = 768
    heads: int = 4
    kv_heads: int = 2
    layers: int = 4
    rows: int = 4
    width: int = 128
    supervised: float = 1.0
    rank: int = 8
    lora_layers: int = 0
    targets: tuple[str, ...] = field(default=())
    chunk_rows: int = 64
    checkpointing: bool = False
    precision: str = "fp32"
    bits: int = 0

    def config(self) -> dict:
        quantization = {"quantization": {"bits": self.bits, "group_size": 64}} if self.bits else {}
        return {
            "model_type": "qwen2",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            **quantization,
        }

    def shape(self) -> ModelShape:
        return ModelShape.from_config(self.config())


def measure(case: Case) -> tuple[int, int]:
    """(bytes at rest, peak bytes during a step), both by MLX's own count, weights and optimizer state included."""
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    model = _model(case)
    optimizer = mlx.optimizers.AdamW(1e-4)
    optimizer.init(model.trainable_parameters())
    batch = _batch(case)
    mx.eval(model.parameters(), optimizer.state, batch[0], *vars(batch[1]).values())
    at_rest = mx.get_active_memory()
    step = eager_gradient(model, case.chunk_rows, case.checkpointing, PLAIN)
    mx.reset_peak_memory()
    _, gradients = step(*batch)
    optimizer.update(model, gradients)
    mx.eval(model.trainable_parameters(), optimizer.state)
    return at_rest - before, mx.get_peak_memory() - before


def _model(case: Case) -> nn.Module:
    model = Model(ModelArgs.from_dict(case.config()))
    model.set_dtype(DTYPES[case.precision])
    if case.bits:
        nn.quantize(model, 64, case.bits)
    apply_lora(model, LoraOptions(rank=case.rank, targets=case.targets, layers=case.lora_layers), seed=0)
    return model


def _batch(case: Case) -> tuple[mx.array, Targets]:
    ids = mx.random.randint(0, case.vocab, (case.rows, case.width))
    supervised = mx.arange(max(1, int(case.rows * case.width * case.supervised)))
    tokens = mx.random.randint(0, case.vocab, supervised.shape)
    return ids, Targets(supervised // case.width, supervised % case.width, tokens, mx.ones(supervised.shape))
