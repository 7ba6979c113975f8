"""One training step of a tiny Qwen3.5 beside mlx-lm's trainer, whose gated delta rule is a loop over tokens.

    python bench/gated_delta_step.py [--rounds 3] [--out bench/results/steps/gated-delta-cpu.json]

Both sides get the same random model (4 blocks, 8 value heads of 32, float32), LoRA of rank 8 on all linear layers, the
same row, and Adam. They take turns, each turn in a process of its own: two steps, of which the second is timed, and the
peak of MLX's allocator above what stays allocated between steps. CPU seconds are recorded beside wall-clock seconds,
which other work on the machine changes. Then the peak alone at more lengths: of this model, a block of which has
softmax attention, and of one whose blocks all have linear attention.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIDES = ("mlx-loopai", "mlx-lm")
RACED_TOKENS = (512, 2048)
LENGTHS = (512, 1024, 2048, 4096)
VOCABULARY, RANK, SCALE, RATE = 1024, 8, 20.0, 1e-5
CONFIG: dict[str, Any] = {
    "model_type": "qwen3_5", "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 384,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "rms_norm_eps": 1e-6,
    "linear_num_value_heads": 8, "linear_num_key_heads": 8, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
    "tie_word_embeddings": True, "max_position_embeddings": 8192,
}  # fmt: skip


class Meter:
    """Measures peak memory, wall-clock and CPU seconds between two moments; keeps the loss of the first step."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    def start(self, loss_first: float) -> None:
        import mlx.core as mx

        mx.clear_cache()
        mx.reset_peak_memory()
        self.found["loss_first"] = loss_first
        self._before = mx.get_active_memory(), time.perf_counter(), time.process_time()

    def stop(self) -> None:
        import mlx.core as mx

        at_rest, clock, processor = self._before
        self.found |= {
            "step_s": round(time.perf_counter() - clock, 4),
            "processor_s": round(time.process_time() - processor, 4),
            "peak_bytes": mx.get_peak_memory() - at_rest,
        }


def turn(side: str, tokens: int, softmax: bool) -> dict[str, float]:
    """What one process measures: the loss of a first step, and what a second one costs."""
    import mlx_loopai  # noqa: F401

    # isort: split
    import mlx.core as mx
    import numpy as np

    from mlx_loopai.models.load import build_model

    mx.random.seed(0)
    model = build_model(CONFIG | ({} if softmax else {"full_attention_interval": 1 + CONFIG["num_hidden_layers"]}))
    mx.eval(model.parameters())
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (1, tokens + 1)).astype(np.int32)
    meter = Meter()
    (own_steps if side == "mlx-loopai" else their_steps)(model, ids, meter)
    return meter.found


def own_steps(model: Any, ids: Any, meter: Meter) -> None:
    import mlx.optimizers as optimizers
    import numpy as np

    from mlx_loopai.config import LoraOptions
    from mlx_loopai.models.lora import apply_lora
    from mlx_loopai.models.micro_batch import MicroBatch
    from mlx_loopai.training.step import StepSettings, TrainStep

    apply_lora(model, LoraOptions(rank=RANK, alpha=SCALE * RANK), seed=0)
    model.train()
    step = TrainStep(model, optimizers.Adam(RATE), StepSettings(clip=0.0))
    batch = MicroBatch(ids, np.ones(ids.shape, np.bool_))
    meter.start(step([batch], RATE).loss)
    step([batch], RATE)
    meter.stop()


def their_steps(model: Any, ids: Any, meter: Meter) -> None:
    """Two steps of mlx-lm's own `train`."""
    import mlx.core as mx
    import mlx.optimizers as optimizers
    from mlx_lm.tuner.trainer import TrainingArgs, TrainingCallback, train
    from mlx_lm.tuner.utils import linear_to_lora_layers

    class Measured(TrainingCallback):
        def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
            if meter.found:
                meter.stop()
            else:
                meter.start(train_info["train_loss"])

    model.freeze()
    linear_to_lora_layers(model, len(model.layers), {"rank": RANK, "scale": SCALE, "dropout": 0.0})
    optimizer = optimizers.Adam(RATE)
    # Otherwise its state is created in the first step, and the second is compiled again.
    optimizer.init(model.trainable_parameters())
    mx.eval(model.parameters(), optimizer.state)
    batch = mx.array(ids), mx.array([[0, ids.shape[1]]])
    with tempfile.TemporaryDirectory() as scratch:
        file = f"{scratch}/adapters.safetensors"
        settings = TrainingArgs(batch_size=1, iters=2, steps_per_report=1, steps_per_save=99, adapter_file=file)
        train(
            model,
            optimizer,
            [0],
            args=settings,
            iterate_batches=lambda **options: iter([batch, batch]),
            training_callback=Measured(),
        )


def in_process(side: str, tokens: int, softmax: bool = True) -> dict[str, float]:
    arguments = [sys.executable, __file__, "--turn", side, str(tokens), str(int(softmax))]
    output = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def race(tokens: int, rounds: int) -> dict[str, Any]:
    """Medians of each side, and how they compare."""
    turns: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            turns[side].append(in_process(side, tokens))
    found = {
        side: {key: statistics.median(turn[key] for turn in some) for key in some[0]} for side, some in turns.items()
    }
    ours, theirs = (found[side] for side in SIDES)
    return {
        "tokens": tokens,
        **found,
        "rate": round(theirs["step_s"] / ours["step_s"], 2),
        "rate_of_processor": round(theirs["processor_s"] / ours["processor_s"], 2),
        "peak_share": round(ours["peak_bytes"] / theirs["peak_bytes"], 3),
        "loss_difference": abs(ours["loss_first"] - theirs["loss_first"]),
    }


def peaks(softmax: bool) -> dict[str, int]:
    """Peak bytes per token, by length."""
    return {str(n): round(in_process("mlx-loopai", n, softmax)["peak_bytes"] / n) for n in LENGTHS}


def measure(rounds: int) -> dict[str, Any]:
    import os
    from dataclasses import asdict

    from mlx_loopai.benchmark.conditions import SystemReader, disturbances, read_machine, read_state

    reader = SystemReader()
    before = read_state(reader)
    found = {
        "config": CONFIG,
        "rounds": rounds,
        "races": [race(tokens, rounds) for tokens in RACED_TOKENS],
        "peak_bytes_a_token": {"all blocks": peaks(softmax=True), "blocks of linear attention": peaks(softmax=False)},
    }
    disturbed = disturbances(before, read_state(reader), os.cpu_count() or 1)
    return found | {"machine": asdict(read_machine(reader)), "disturbed": disturbed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--turn", nargs=3, metavar=("SIDE", "TOKENS", "SOFTMAX"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        side, tokens, softmax = options.turn
        sys.stdout.write(json.dumps(turn(side, int(tokens), softmax == "1")) + "\n")
        return
    text = json.dumps(measure(options.rounds), indent=1)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
