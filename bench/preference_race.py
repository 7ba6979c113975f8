"""mlx-loopai's DPO against mlx-lm-lora's: the same pairs in the same order, the same adapter, float32 weights.

    python bench/preference_race.py --model MODEL [--tokens 256] [--steps 4] [--rounds 3] [--out F.json]

It needs `pip install mlx-lm-lora==5.10.2`, which is no part of this project. Each turn is a process of its own, and the
sides take turns. Pairs are random tokens, half of each row a prompt, so that nothing is padded and the step alone
counts. The adapter differs from the base, so that the first loss says whether both compute the same. Beside the time
on the clock stands the processor's: on a machine with other work it is the fairer one.

mlx-loopai computes the base's log-probabilities once before the first step; mlx-lm-lora computes them in every step, by
a second copy of the weights. `pairs_per_cpu_s_one_epoch` counts our pass over the base too, as a run of one epoch has.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mlx_loopai  # noqa: F401  (first of all: it gives MLX the same fast BLAS on both sides)

# isort: split
import mlx.core as mx
import mlx.optimizers as optimizers
import numpy as np

from mlx_loopai.benchmark.backends.mlx_memory import MlxMemory
from mlx_loopai.benchmark.conditions import SystemReader, read_machine
from mlx_loopai.benchmark.protocol import Figure, paired_ratio, take_turns
from mlx_loopai.config import LoraOptions, PreferenceOptions
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.evaluation.perplexity import nll
from mlx_loopai.models.adapters import load_adapter, save_adapter
from mlx_loopai.models.load import load_model, resolve_model
from mlx_loopai.models.lora import apply_lora, lora_modules
from mlx_loopai.training.objective import Objective
from mlx_loopai.training.phases import Phase
from mlx_loopai.training.step import StepSettings, TrainStep

OWN, THEIRS = "mlx-loopai", "mlx-lm-lora"
LORA = LoraOptions(rank=8, alpha=16.0)
BETA = 0.1
SPREAD = 0.02  # of the adapter's B: the policy is near the base, as in the first steps of a run
TOLERANCE = 1e-4  # of first losses, relative: float32


@dataclass(frozen=True)
class Case:
    """`tokens`: of every answer with its prompt. One pair per step; the first step compiles, and is not timed."""

    model: str
    tokens: int
    steps: int
    learning_rate: float = 1e-5
    seed: int = 0

    def order(self) -> list[int]:
        """Which pair each step has, as mlx-lm-lora draws them: with replacement, a new order every step."""
        np.random.seed(self.seed)
        return [int(np.random.permutation(self.steps)[0]) for _ in range(self.steps + 1)]


@dataclass(frozen=True)
class Turn:
    """step_s, step_cpu_s: seconds of every timed step, by the clock and of the processor. reference_s, reference_cpu_s:
    of the base's log-probabilities of one pair, 0 if they are part of the step."""

    step_s: tuple[float, ...]
    step_cpu_s: tuple[float, ...]
    reference_s: float
    reference_cpu_s: float
    loss_first: float
    weights_bytes: int
    peak_bytes: int

    @property
    def pairs_per_s(self) -> float:
        return len(self.step_s) / sum(self.step_s)

    @property
    def pairs_per_cpu_s(self) -> float:
        return len(self.step_s) / sum(self.step_cpu_s)

    @property
    def pairs_per_cpu_s_one_epoch(self) -> float:
        return len(self.step_s) / (sum(self.step_cpu_s) + self.reference_cpu_s * len(self.step_s))


RATES = ("pairs_per_s", "pairs_per_cpu_s", "pairs_per_cpu_s_one_epoch")


@dataclass(frozen=True)
class Clock:
    """Seconds that have passed since it began, by the clock and of the processor."""

    begun_s: float
    begun_cpu_s: float

    @staticmethod
    def begin() -> Clock:
        return Clock(time.perf_counter(), time.process_time())

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self.begun_s, time.process_time() - self.begun_cpu_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", choices=[OWN, THEIRS], help=argparse.SUPPRESS)
    parser.add_argument("--case", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        turn = (own_turn if options.side == OWN else their_turn)(options.case)
        print(json.dumps(asdict(turn)))  # noqa: T201
        return
    report = race(Case(str(resolve_model(options.model)), options.tokens, options.steps), options.rounds)
    report["command"] = " ".join(["python", "bench/preference_race.py", *sys.argv[1:]])
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: report[key] for key in ("equal", "sides", "ratios", "load")}, indent=1))  # noqa: T201


def race(case: Case, rounds: int) -> dict[str, Any]:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_case(folder, case)

        def turn(side: str, _: int) -> dict[str, Any]:
            command = [sys.executable, __file__, "--side", side, "--case", str(folder)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return found

        turns = take_turns((OWN, THEIRS), rounds, turn)
    found = {side: [Turn(**one) for one in own] for side, own in turns.items()}
    first = [one.loss_first for own in found.values() for one in own]
    return {
        "machine": asdict(read_machine(SystemReader())),
        "load": [load, os.getloadavg()[0]],
        "case": {**asdict(case), "model": Path(case.model).name},
        "rounds": rounds,
        "equal": max(first) - min(first) <= TOLERANCE * max(first),
        "sides": {side: described(own) for side, own in found.items()},
        "ratios": {
            name: asdict(ratio)
            for name in (*RATES, "peak_bytes")
            if (ratio := paired_ratio(*([float(getattr(one, name)) for one in own] for own in found.values())))
        },
    }


def described(turns: Sequence[Turn]) -> dict[str, Any]:
    return {
        **{name: asdict(Figure.of([getattr(one, name) for one in turns])) for name in RATES},
        "peak_bytes": max(one.peak_bytes for one in turns),
        "weights_bytes": turns[-1].weights_bytes,
        "loss_first": turns[-1].loss_first,
        "turns": [asdict(one) for one in turns],
    }


def write_case(folder: Path, case: Case) -> None:
    """The settings, the pairs and the adapter that both sides start from."""
    loaded = load_model(case.model, "fp32")
    generator = np.random.default_rng(case.seed)
    ids = generator.integers(0, loaded.shape.vocab_size, (case.steps, 2, case.tokens), dtype=np.int32)
    ids[:, 1, : case.tokens // 2] = ids[:, 0, : case.tokens // 2]  # one prompt
    np.save(folder / "pairs.npy", ids)
    (folder / "case.json").write_text(json.dumps(asdict(case)), encoding="utf-8")
    apply_lora(loaded.model, LORA, case.seed)
    mx.random.seed(case.seed)
    for layer in lora_modules(loaded.model).values():
        layer.lora_b = SPREAD * mx.random.normal(layer.lora_b.shape)
    save_adapter(folder / "adapter", loaded.model, LORA, loaded.base_hash)


def read_case(folder: Path) -> tuple[Case, Any]:
    """The settings, and the pairs [pairs, 2, tokens]: the chosen answer first, each behind its prompt."""
    return Case(**json.loads((folder / "case.json").read_text(encoding="utf-8"))), np.load(folder / "pairs.npy")


def own_turn(folder: Path) -> Turn:
    case, pairs = read_case(folder)
    loaded, memory = load_model(case.model, "fp32"), MlxMemory({})
    model, taught = loaded.model, np.arange(case.tokens) >= case.tokens // 2
    rows = [TokenRow(ids, taught, origin="", category="domain") for pair in pairs for ids in pair]
    mx.eval(model.parameters())
    weights = memory.weights_bytes()
    memory.reset_peak()
    clock = Clock.begin()
    likely = -nll(model, rows).nll
    reference_s, reference_cpu_s = (seconds / len(pairs) for seconds in clock.read())
    load_adapter(model, folder / "adapter")
    referred = [replace(row, reference=float(value)) for row, value in zip(rows, likely, strict=True)]
    judged = tuple(
        replace(chosen, rejected=rejected) for chosen, rejected in zip(referred[::2], referred[1::2], strict=True)
    )
    order = case.order()
    phase = Phase(
        name="race",
        rows=judged,
        steps=[[[place]] for place in order],
        widths=(case.tokens,),
        learning_rate=case.learning_rate,
        strength=0.0,
        objective=Objective(),
    )
    settings = StepSettings(clip=0.0, preference=PreferenceOptions(objective="dpo", beta=BETA, sft_weight=0.0))
    step = TrainStep(model, optimizers.Adam(case.learning_rate), settings)
    model.train()
    losses, times = [], []
    for number in range(len(order)):
        clock = Clock.begin()
        losses.append(step(phase.batches(number), case.learning_rate).loss)
        times.append(clock.read())
    return turn_of(times[1:], (reference_s, reference_cpu_s), losses[0], weights, memory)


def turn_of(
    times: Sequence[tuple[float, float]], reference: tuple[float, float], loss: float, weights: int, memory: MlxMemory
) -> Turn:
    """times: of every step that counts, by the clock and of the processor."""
    by_clock, of_processor = zip(*times, strict=True)
    return Turn(
        step_s=by_clock,
        step_cpu_s=of_processor,
        reference_s=reference[0],
        reference_cpu_s=reference[1],
        loss_first=loss,
        weights_bytes=weights,
        peak_bytes=memory.peak_bytes(),
    )


def their_turn(folder: Path) -> Turn:
    """mlx-lm-lora's unchanged trainer. It asks for the GPU's memory, which a CPU does not have: it gets a number."""
    from mlx_lm.tuner.callbacks import TrainingCallback
    from mlx_lm_lora.trainer.dpo_trainer import DPOTrainingArgs, train_dpo

    if not mx.metal.is_available():
        mx.device_info = lambda: {"max_recommended_working_set_size": 0}
        mx.set_wired_limit = lambda _: 0
    case, pairs = read_case(folder)
    policy, base = (load_model(case.model, "fp32").model for _ in range(2))
    base.freeze()
    memory = MlxMemory({})
    mx.eval(policy.parameters(), base.parameters())
    weights = memory.weights_bytes()  # of both copies
    memory.reset_peak()
    load_adapter(policy, folder / "adapter")
    prompt = case.tokens // 2
    data = [
        {
            "chosen": chosen.tolist(),
            "rejected": rejected.tolist(),
            "chosen_prompt_length": prompt,
            "rejected_prompt_length": prompt,
        }
        for chosen, rejected in pairs
    ]
    losses: list[float] = []
    times: list[tuple[float, float]] = []

    class Report(TrainingCallback):  # type: ignore[misc]
        """A step lasts from one report to the next."""

        clock = Clock.begin()

        def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
            losses.append(float(train_info["train_loss"]))
            times.append(self.clock.read())
            self.clock = Clock.begin()

    np.random.seed(case.seed)
    optimizer = optimizers.Adam(case.learning_rate)
    optimizer.init(policy.trainable_parameters())
    train_dpo(
        policy,
        base,
        optimizer,
        data,
        args=DPOTrainingArgs(
            batch_size=1,
            iters=case.steps + 1,
            beta=BETA,
            max_seq_length=case.tokens,
            steps_per_report=1,
            steps_per_save=case.steps + 2,
            adapter_file=str(folder / "theirs.safetensors"),
        ),
        training_callback=Report(),
    )
    return turn_of(times[1:], (0.0, 0.0), losses[0], weights, memory)


if __name__ == "__main__":
    main()
