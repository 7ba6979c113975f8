"""The options of the sections `lora` and `train`: which weights are trained, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mlx_loopai.config.table import Options, PathText

Optimizer = Literal["adamw", "adam", "sgd", "lion", "adafactor", "muon"]
TrainPath = Literal["auto", "compiled", "eager"]
TrainMethod = Literal["lora", "full"]
Moments = Literal["fp32", "8-bit"]
Schedule = Literal["cosine", "linear", "constant"]


class LoraOptions(Options):
    rank: int = Field(8, ge=1, le=1024, description="rank R of the update B A")
    alpha: float = Field(16.0, gt=0, description="numerator of the scale: alpha / rank")
    rslora: bool = Field(False, description="scale by alpha / sqrt(rank) instead of alpha / rank")
    dora: bool = Field(False, description="DoRA: learn each adapted row's length apart from its direction")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input while training")
    b_rate: float = Field(1.0, gt=0, description="LoRA+: learning rate of B as a multiple of A's; 1: the same")
    ranks: Literal["same", "importance"] = Field(
        "same",
        description="same: every layer has `rank`; importance: the same number of parameters, but layers whose gradient"
        " on the training rows has more directions get a higher rank, from a quarter of `rank` to four times as much",
    )
    targets: tuple[str, ...] = Field(
        (),
        description="linear layers to adapt, such as q_proj, or of experts switch_mlp.up_proj; empty: all but experts",
    )
    layers: int = Field(0, ge=0, description="adapt the last N blocks; 0: all")
    start: PathText = Field(
        "",
        description="an adapter folder, or its run, that this run goes on from, in that adapter's form; judged answers"
        " are compared with it; empty: the base",
    )


class TrainOptions(Options):
    seed: int = Field(0, ge=0, description="seeds data order, adapter initialisation and dropout")
    method: TrainMethod = Field(
        "lora",
        description="lora: an adapter; full: every weight of the linear layers that `lora.targets` and `lora.layers`"
        " name, saved as a whole model; it needs a lower learning rate",
    )
    path: TrainPath = Field(
        "auto",
        description="compiled: the step is one mx.compile'd graph; eager: NumPy computes the loss; "
        "auto: compiled on a GPU, eager on CPU",
    )
    epochs: float = Field(1.0, gt=0, description="passes over a phase's mixture")
    max_steps: int = Field(
        0, ge=0, description="optimizer steps in all, instead of epochs (data repeat); 0: use epochs"
    )
    rows_per_step: int = Field(
        8, ge=1, description="rows per optimizer step, exact; split into micro-batches by tokens"
    )
    max_tokens: int = Field(2048, ge=8, description="longest row; a longer one is split at turns or sentences")
    optimizer: Optimizer = Field("adamw", description="adamw, adam, sgd, lion, adafactor or muon")
    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.0, ge=0, description="weight decay (none with adam)")
    bias_correction: bool = Field(
        False,
        description="adam, adamw: correct the moments' start at 0; without it the first 100 steps go 3 to 6"
        " times as far as the rate says, as in mlx-lm",
    )
    moments: Moments = Field(
        "fp32", description="what adam and adamw keep of the gradients: fp32, or 8-bit, a quarter of the memory"
    )
    schedule: Schedule = Field("cosine", description="shape of the learning rate after warm-up")
    warmup: int = Field(10, ge=0, description="warm-up steps from 0 to the peak")
    clip: float = Field(1.0, ge=0, description="largest global gradient norm; 0: no clipping")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of a target spread over the vocabulary")
    z_loss: float = Field(0.0, ge=0, description="factor of the squared log-sum-exp, added to the loss")
    max_skipped_steps: int = Field(
        10, ge=1, description="stop after this many steps in a row with a non-finite loss or gradient"
    )
    validate_every: int = Field(0, ge=0, description="optimizer steps between validations; 0: before and after only")
    patience: int = Field(
        0, ge=0, description="stop after this many validations in a row without a better one; 0: never"
    )
    keep_best: bool = Field(False, description="the run's result is the adapter of the best validation, not the last")
    save_every: int = Field(50, ge=0, description="optimizer steps between checkpoints; 0: at phase ends only")
    keep_checkpoints: int = Field(2, ge=1, description="how many checkpoints stay on disk")
