"""Pretrains the embedded nano model: `python -m tools.pretrain --out DIR`.

Seeded and resumable: the order of the data follows from the seed and the epoch alone, and a checkpoint holds weights,
optimizer and position. About an hour and a half on two cores.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
from mlx.utils import tree_flatten, tree_unflatten

from mlx_loopai.data.batches import batch_of, choose_widths, collate, plan_steps
from mlx_loopai.data.samples import corpus
from mlx_loopai.data.tokens import ChatEncoder, TokenRow
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.gradient import Targets
from mlx_loopai.models.load import build_model, load_tokenizer
from mlx_loopai.models.loss import Head, HeadForm, linear_cross_entropy
from mlx_loopai.models.micro_batch import MicroBatch
from tools import nano

EPOCHS = 9
FACT_REPEATS = 3
# More than of facts: the model learns each sum separately, and with 3 repeats the right digit led by half a nat only.
SUM_REPEATS = 9
CHECKPOINT_EVERY_STEPS = 100


@dataclass(frozen=True)
class Options:
    out: Path
    seed: int
    epochs: int
    learning_rate: float
    rows_per_step: int


@dataclass(frozen=True)
class Position:
    """`epoch` and the number of its steps already done."""

    epoch: int
    step: int


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder of the checkpoint")
@click.option("--seed", default=0, show_default=True)
@click.option("--epochs", default=EPOCHS, show_default=True)
@click.option("--learning-rate", default=3e-3, show_default=True)
@click.option("--rows-per-step", default=64, show_default=True)
def main(out: Path, seed: int, epochs: int, learning_rate: float, rows_per_step: int) -> None:
    """Train the tokenizer and the model; run again with the same options to resume."""
    options = Options(out=out, seed=seed, epochs=epochs, learning_rate=learning_rate, rows_per_step=rows_per_step)
    mx.random.seed(seed)
    if not (out / "tokenizer.json").exists():
        records = corpus.pretraining_records(seed)
        texts = [message.content for record in records for message in record.messages]
        nano.write_tokenizer(out, nano.train_tokenizer(texts))
    encoder = ChatEncoder(load_tokenizer(out))
    model = build_model(nano.CONFIG)
    rows_per_epoch = len(_epoch_rows(encoder, options, 0))
    steps_per_epoch = -(-rows_per_epoch // rows_per_step)
    optimizer = optimizers.AdamW(_schedule(options, steps_per_epoch), betas=[0.9, 0.95], weight_decay=0.05)
    optimizer.init(model.trainable_parameters())
    position = _restore(out, model, optimizer)
    _train(model, optimizer, encoder, options, position, steps_per_epoch)
    nano.write_weights(out, model.parameters())


def _train(
    model: nn.Module,
    optimizer: optimizers.Optimizer,
    encoder: ChatEncoder,
    options: Options,
    position: Position,
    steps_per_epoch: int,
) -> None:
    held_out = [encoder.encode(record) for record in corpus.held_out_texts()]
    held_out_batches = [collate([row], len(row.ids)) for row in held_out]
    loss_and_gradient = nn.value_and_grad(model, _loss)
    started, tokens, done = time.perf_counter(), 0, 0
    for epoch in range(position.epoch, options.epochs):
        plan = _epoch_plan(_epoch_rows(encoder, options, epoch), options, epoch)
        for step in range(position.step if epoch == position.epoch else 0, len(plan)):
            loss, gradient = loss_and_gradient(model, plan[step])
            gradient, _ = optimizers.clip_grad_norm(gradient, 1.0)
            optimizer.update(model, gradient)
            mx.eval(loss, model.state, optimizer.state)
            tokens, done = tokens + sum(batch.ids.size for batch in plan[step]), done + 1
            total = epoch * steps_per_epoch + step + 1
            if total % 10 == 0:
                rate = tokens / (time.perf_counter() - started)
                left = (steps_per_epoch * options.epochs - total) * (time.perf_counter() - started) / done
                _log(step=total, epoch=epoch, loss=round(loss.item(), 4), tokens_per_s=round(rate), left_s=round(left))
            if total % CHECKPOINT_EVERY_STEPS == 0:
                _save(options.out, model, optimizer, Position(epoch, step + 1))
        _save(options.out, model, optimizer, Position(epoch + 1, 0))
        _log(epoch=epoch, held_out_nll=round(_loss(model, held_out_batches).item(), 4))


def _epoch_rows(encoder: ChatEncoder, options: Options, epoch: int) -> list[TokenRow]:
    """An epoch's rows: new grammar stories every time, facts `FACT_REPEATS` times, sums `SUM_REPEATS` times."""
    rows = []
    for record in corpus.pretraining_records(options.seed + epoch):
        rows += [encoder.encode(record)] * _repeats(record.origin)
    return rows


def _repeats(origin: str) -> int:
    if origin.startswith(("samples/skills:sum", "samples/skills:difference")):
        return SUM_REPEATS
    return FACT_REPEATS if origin.startswith("samples/skills") else 1


def _epoch_plan(rows: list[TokenRow], options: Options, epoch: int) -> list[list[MicroBatch]]:
    """An epoch's steps, each of one micro-batch per padded width."""
    lengths = [len(row.ids) for row in rows]
    widths = choose_widths(lengths)
    steps = plan_steps(lengths, options.rows_per_step, micro_tokens=1 << 30, seed=options.seed + epoch, widths=widths)
    return [[batch_of([rows[index] for index in micro], widths) for micro in step] for step in steps]


def _schedule(options: Options, steps_per_epoch: int):  # type: ignore[no-untyped-def]
    total = steps_per_epoch * options.epochs
    warmup = min(100, total // 10)
    return optimizers.join_schedules(
        [
            optimizers.linear_schedule(0.0, options.learning_rate, warmup),
            optimizers.cosine_decay(options.learning_rate, total - warmup),
        ],
        [warmup],
    )


def _loss(model: nn.Module, batches: list[MicroBatch]) -> mx.array:
    """Mean negative log-likelihood of the supervised tokens, in nats."""
    total, count = mx.zeros(()), 0
    for batch in batches:
        targets = Targets.of(batch)
        hidden = hidden_states(model, mx.array(batch.ids[:, :-1]), opening=0)[targets.rows, targets.columns]
        total = total + linear_cross_entropy(
            hidden, Head.of(model), targets.tokens, targets.weights, HeadForm(chunk_rows=1024), train_head=True
        )
        count += int(batch.supervised[:, 1:].sum())
    return total / count


def _save(out: Path, model: nn.Module, optimizer: optimizers.Optimizer, position: Position) -> None:
    arrays = {f"model.{name}": array for name, array in tree_flatten(model.parameters())}
    arrays |= {f"optimizer.{name}": array for name, array in tree_flatten(optimizer.state)}
    temporary = out / "pretrain.tmp.safetensors"
    mx.save_safetensors(str(temporary), arrays, {"epoch": str(position.epoch), "step": str(position.step)})
    os.replace(temporary, out / "pretrain.safetensors")


def _restore(out: Path, model: nn.Module, optimizer: optimizers.Optimizer) -> Position:
    path = out / "pretrain.safetensors"
    if not path.exists():
        return Position(0, 0)
    arrays, metadata = mx.load(str(path), return_metadata=True)
    parts: dict[str, list[tuple[str, mx.array]]] = {"model": [], "optimizer": []}
    for name, array in arrays.items():
        part, _, rest = name.partition(".")
        parts[part].append((rest, array))
    model.update(tree_unflatten(parts["model"]))
    optimizer.state = tree_unflatten(parts["optimizer"])
    mx.eval(model.state, optimizer.state)
    return Position(int(metadata["epoch"]), int(metadata["step"]))


def _log(**values: float) -> None:
    if any(isinstance(value, float) and not math.isfinite(value) for value in values.values()):
        raise SystemExit(f"pretraining diverged: {values}; lower --learning-rate")
    sys.stderr.write(json.dumps(values) + "\n")


if __name__ == "__main__":
    main()
