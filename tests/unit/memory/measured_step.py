"""Runs real training steps on a tiny random Qwen2 and reads what MLX needed: what predictions are held against."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers
from mlx_lm.models.qwen2 import Model, ModelArgs

from mlx_loopai.config import LoraOptions
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.models.loss import Head, linear_cross_entropy
from mlx_loopai.models.shape import ModelShape

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
    mx.eval(model.parameters(), optimizer.state, batch)
    at_rest = mx.get_active_memory()
    step = _step(case, model)
    mx.reset_peak_memory()
    loss, gradients = step(model.trainable_parameters(), *batch)
    mx.eval(loss, gradients)
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


def _batch(case: Case) -> tuple[mx.array, mx.array, mx.array]:
    ids = mx.random.randint(0, case.vocab, (case.rows, case.width))
    n_supervised = max(1, int(case.rows * case.width * case.supervised))
    return ids, mx.arange(n_supervised), mx.random.randint(0, case.vocab, (n_supervised,))


def _step(case: Case, model: nn.Module):
    frozen_head = Head.of(model)

    def loss(parameters, ids, positions, targets):
        model.update(parameters)
        states = hidden_states(model, ids, case.checkpointing)
        rows = states.reshape(-1, states.shape[-1])[positions]
        weights = mx.full(targets.shape, 1 / targets.size)
        return linear_cross_entropy(rows, frozen_head, targets, weights, case.chunk_rows)

    return mx.value_and_grad(loss)
