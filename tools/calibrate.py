"""Measures the memory of real training steps, fits `memory.predict`'s constants to some, checks them on others.

python -m tools.calibrate measure     append to bench/results/memory-*.jsonl, each case in its own process
python -m tools.calibrate fit         write mlx_loopai/memory/constants.json
python -m tools.calibrate table       write the table of docs/memory.md
"""

from __future__ import annotations

import json
import multiprocessing
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from mlx_loopai.files import write_whole
from mlx_loopai.memory.calibration import (
    fit,
    is_held_out,
    options_of,
    own_table,
    table,
    transient_table,
)
from mlx_loopai.memory.sizes import CONSTANTS, EXPERTS, LINEAR_ATTENTION, StepOptions
from mlx_loopai.units import MIB
from tools import expert_cases, linear_attention_cases
from tools.doc_markers import with_marked

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "memory.md"
RESULTS = ROOT / "bench" / "results" / "memory-cpu.jsonl"
LINEAR_RESULTS = ROOT / "bench" / "results" / "memory-linear-attention.jsonl"
EXPERT_RESULTS = ROOT / "bench" / "results" / "memory-experts.jsonl"
SEED_FITTED, SEED_FITTED_HALF, SEED_HELD_OUT = 2026, 2027, 20261126
# Held out until their errors were looked at and the counts changed after them (docs/memory.md).
SEEDS_ONCE_HELD_OUT = (20261124, 20261125)
CASES_FITTED = 100
# Drawn by precision, since steps in half precision are seldom quick enough on CPU.
CASES_FITTED_HALF = {"bf16": 16, "4-bit": 8}
CASES_HELD_OUT = {"fp32": 30, "bf16": 15, "4-bit": 15}
# What is drawn must be measured in seconds on one core. Rates of this project's CI machine: multiply-adds a second in
# fp32, how much slower half precision and 4 bits are, element-wise operations a second.
_LONGEST_FITTED_S, _LONGEST_QUICK_S = 4.0, 1.2
_PRODUCTS_S, _SLOW_FACTOR, _ELEMENTS_S = 1.5e10, 12, 4e7


@dataclass(frozen=True)
class Case:
    """One measured configuration: the model's config.json and the step's options."""

    config: dict[str, Any]
    options: StepOptions

    @property
    def seconds(self) -> float:
        """Roughly how long its step takes."""
        size, options = self.config, self.options
        if size["model_type"] == "qwen3_5":
            return linear_attention_cases.seconds(size, options)
        if size["model_type"] == "qwen3_moe":
            return expert_cases.seconds(size, options)
        hidden, inner, layers = size["hidden_size"], size["intermediate_size"], size["num_hidden_layers"]
        tokens = options.micro_tokens * (2 if options.accumulates else 1)
        logits = tokens * options.supervised_share * size["vocab_size"]
        passes = 3 if options.checkpointing else 2
        products = passes * tokens * layers * hidden * 3 * (hidden + inner) + 2 * logits * hidden
        attention = tokens * layers * size["num_attention_heads"] * options.width
        elements = logits + 5 * attention + 15 * tokens * layers * (hidden + inner)
        slow = 1 if options.base_precision == "fp32" else _SLOW_FACTOR
        return products * slow / _PRODUCTS_S + elements / _ELEMENTS_S


def _config(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": "qwen2",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        **more,
    }


_NANO = _config(256, 640, 4, 4, 2, 4096)
_REAL = _config(896, 4864, 24, 14, 2, 151936)  # Qwen2.5-0.5B


def cases() -> list[Case]:
    """Cases that the constants are fitted to: the embedded and the real 0.5B shape, and seeded draws between them."""
    named = [
        Case(_NANO, StepOptions(width=width, micro_tokens=1024, chunk_rows=256, checkpointing=checkpointing))
        for width in (64, 256)
        for checkpointing in (False, True)
    ]
    real = [
        Case(_REAL, StepOptions(width=width, micro_tokens=256, accumulates=False, checkpointing=checkpointing))
        for width in (64, 256)
        for checkpointing in (False, True)
    ]
    shorter = StepOptions(width=128, micro_tokens=128, chunk_rows=64, accumulates=False)
    once_held_out = [case for seed in SEEDS_ONCE_HELD_OUT for case in _draws_by_precision(seed, CASES_HELD_OUT)]
    return [
        *named,
        *_draws(SEED_FITTED, CASES_FITTED, _LONGEST_FITTED_S),
        *_draws_by_precision(SEED_FITTED_HALF, CASES_FITTED_HALF),
        *once_held_out,
        *real,
        Case(_REAL, replace(shorter, lora_rank=16)),
        Case(_REAL, replace(shorter, lora_rank=32, checkpointing=True)),
    ]


def held_out_cases() -> list[Case]:
    """Cases that the fit never sees: other draws, and one step of the real 0.5B shape."""
    real = StepOptions(lora_rank=4, width=256, micro_tokens=256, chunk_rows=128, accumulates=False)
    return [*_draws_by_precision(SEED_HELD_OUT, CASES_HELD_OUT), Case(_REAL, real)]


def _draws_by_precision(seed: int, counts: Mapping[str, int]) -> list[Case]:
    drawn = [_draws(seed, count, _LONGEST_QUICK_S, precision) for precision, count in counts.items()]
    return [case for cases in drawn for case in cases]


def _draws(seed: int, count: int, longest_s: float, precision: str = "") -> list[Case]:
    """`count` cases that take no longer than that, of one base precision or of any."""
    draw = random.Random(seed)
    drawn: list[Case] = []
    while len(drawn) < count:
        case = _drawn(draw)
        if case.seconds <= longest_s and precision in ("", case.options.base_precision):
            drawn.append(case)
    return drawn


def _drawn(draw: random.Random) -> Case:
    heads, kv_heads, head_dim = draw.choice([(4, 2, 64), (8, 2, 64), (8, 8, 32), (14, 2, 64), (12, 4, 64)])
    hidden = heads * head_dim
    family = draw.choice(["qwen2", "qwen2", "qwen3", "llama"])
    more: dict[str, Any] = {"model_type": family, "tie_word_embeddings": draw.random() < 0.7}
    if family == "qwen3":
        more |= {"head_dim": head_dim * 2, "rope_theta": 1e6, "max_position_embeddings": 4096}
    inner = int(hidden * draw.choice([2.5, 3.5, 5.5])) // 64 * 64
    vocab = draw.choice([4096, 8192, 32000, 64000, 151936])
    precision = draw.choice(["fp32", "bf16", "4-bit"])
    layers = draw.choice([3, 4, 6, 8, 12, 16])
    width = draw.choice([64, 128, 256, 512])
    rows = draw.choice([1, 2, 4, 8])
    options = StepOptions(
        base_precision=precision,
        compute="fp32" if precision == "fp32" else "bf16",
        lora_rank=draw.choice([4, 8, 16, 64]),
        lora_targets=draw.choice([(), (), (), ("q_proj", "v_proj"), ("q_proj", "k_proj", "v_proj", "o_proj")]),
        lora_layers=draw.choice([0, 0, 0, max(1, layers // 2)]),
        micro_tokens=rows * width,
        width=width,
        supervised_share=draw.choice([1.0, 0.5, 0.2]),
        checkpointing=draw.random() < 0.5,
        chunk_rows=draw.choice([32, 64, 128, 256]),
        accumulates=draw.random() < 0.5,
    )
    return Case(_config(hidden, inner, layers, heads, kv_heads, vocab, **more), options)


@click.group()
def main() -> None:
    """Calibrate the memory prediction on this machine."""


@main.command("measure")
@click.option("--workers", default=1, show_default=True, help="Processes at once; each measures one case and ends.")
def measure(workers: int) -> None:
    """Measure every case that the result files do not hold yet, each in its own process."""
    measure_groups(RESULTS, {False: cases(), True: held_out_cases()}, workers)
    linear = {
        held_out: [Case(*case) for case in linear_attention_cases.drawn(plan)]
        for held_out, plan in ((False, linear_attention_cases.FITTED), (True, linear_attention_cases.HELD_OUT))
    }
    measure_groups(LINEAR_RESULTS, linear, workers)
    experts = {
        held_out: [Case(*case) for case in expert_cases.drawn(*plan)]
        for held_out, plan in ((False, expert_cases.FITTED), (True, expert_cases.HELD_OUT))
    }
    measure_groups(EXPERT_RESULTS, experts, workers)


def measure_groups(out: Path, groups: Mapping[bool, Sequence[Case]], workers: int) -> None:
    """Append the rows of the cases that `out` lacks; those under True are held out."""
    done = {_key(row) for row in read_rows(out)}
    conditions = _conditions()
    waiting = [(held, case) for held, group in groups.items() for case in group if _key(asdict(case)) not in done]
    waiting.sort(key=lambda found: found[1].seconds)  # quick ones first: most results are there soon
    from mlx_loopai.training.step_memory import measure_case

    # A server that has imported MLX, but not used it, starts each case's own process without the seconds of importing.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlx_loopai.training.step_memory"])
    with (
        ProcessPoolExecutor(workers, context, max_tasks_per_child=1) as pool,
        out.open("a", encoding="utf-8") as stream,
    ):
        running = {pool.submit(measure_case, case.config, case.options): held for held, case in waiting}
        for number, found in enumerate(as_completed(running), 1):
            row = found.result() | {"held_out": running[found]} | conditions
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            sys.stderr.write(f"{number}/{len(waiting)} {row['peak_bytes'] / MIB:.0f} MiB {row['step_s']:.1f} s\n")


@main.command("fit")
def write_constants() -> None:
    """Fit the constants to the rows that are not held out."""
    usual, linear, experts = (
        [row for row in read_rows(path) if not is_held_out(row)] for path in (RESULTS, LINEAR_RESULTS, EXPERT_RESULTS)
    )
    found = fit(experts, EXPERTS, start=fit(linear, LINEAR_ATTENTION, start=fit(usual)))
    write_whole(CONSTANTS, json.dumps(asdict(found), indent=2) + "\n")


@main.command("table")
def write_tables() -> None:
    """Write the tables of docs/memory.md from the results."""
    document = DOCUMENT.read_text(encoding="utf-8")
    rows = [read_rows(path) for path in (RESULTS, LINEAR_RESULTS, EXPERT_RESULTS)]
    DOCUMENT.write_text(with_tables(document, *rows), encoding="utf-8")


def with_tables(
    document: str,
    rows: Sequence[dict[str, Any]],
    linear: Sequence[dict[str, Any]],
    experts: Sequence[dict[str, Any]],
) -> str:
    """`document` with its tables made of `rows`, and of those of models with `linear` attention and with `experts`.

    Raises: InputError without their markers.
    """
    tables = {
        "memory table": table(rows),
        "transient table": transient_table(rows),
        "linear attention table": own_table(linear),
        "experts table": own_table(experts),
    }
    for name, text in tables.items():
        document = with_marked(document, name, text, DOCUMENT)
    return document


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Measured rows, in the order in which they ended."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _key(row: dict[str, Any]) -> str:
    return json.dumps([row["config"], asdict(options_of(row))], sort_keys=True)


def _conditions() -> dict[str, Any]:
    import platform
    from importlib.metadata import version

    commit = subprocess.run(
        [
            "git",
            "log",
            "-1",
            "--format=%h",
            "--",
            "mlx_loopai/models",
            "mlx_loopai/training/step.py",
            "mlx_loopai/models/gradient.py",
            "mlx_loopai/training/parameter_vectors.py",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "mlx": version("mlx"),
        "mlx_lm": version("mlx-lm"),
        "commit": commit,  # the last that changed what a step does
    }


if __name__ == "__main__":
    main()
