"""Small rows, an adapted tiny model, and the command line in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_loopai.config import LoraOptions
from mlx_loopai.data.batches import collate
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import apply_lora
from mlx_loopai.models.micro_batch import MicroBatch

ROOT = Path(__file__).parents[2]
TOPICS = ["봄비", "바다", "골목", "겨울밤", "편지", "할머니", "기차", "고양이", "우산", "시장", "별", "숲"]


@dataclass
class Heard:
    """A listener that remembers."""

    notices: list[str] = field(default_factory=list)
    stages: list[tuple[str, int]] = field(default_factory=list)
    done: list[int] = field(default_factory=list)

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def stage(self, name: str, total: int) -> None:
        self.stages.append((name, total))

    def advance(self, done: int, note: str = "") -> None:
        self.done.append(done)


def row(length: int, seed: int = 0, prompt: int = 2, origin: str = "") -> TokenRow:
    """Random tokens, all but the first `prompt` supervised."""
    ids = np.random.default_rng([seed, length]).integers(3, 300, length).astype(np.int32)
    return TokenRow(ids, np.arange(length) >= prompt, origin or f"{seed}:{length}", "domain")


def batch(rows: Sequence[TokenRow], width: int = 0) -> MicroBatch:
    return collate(rows, width or max(len(row.ids) for row in rows))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def adapted(tiny_model_folder: Path) -> Callable[..., nn.Module]:
    """Builds the tiny model with an adapter of rank 3 that does something; the same one each time."""

    def build(dropout: float = 0.0) -> nn.Module:
        model = load_model(str(tiny_model_folder), "fp32").model
        layers = apply_lora(model, LoraOptions(rank=3, alpha=6.0, dropout=dropout), seed=1)
        for layer in layers.values():
            layer.lora_b = 0.05 * mx.random.normal(layer.lora_b.shape)
        return model

    return build


@pytest.fixture(scope="session")
def data_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three small sources and general rows, each row of another length."""
    folder = tmp_path_factory.mktemp("data")
    files = {}
    for number, name in enumerate(("talk", "tale", "trade", "general")):
        lines = [
            {
                "prompt": f"{topic}에 대해 써 주세요.",
                "completion": f"{topic} 이야기입니다. " + "가나다 " * (place + number),
            }
            for place, topic in enumerate(TOPICS)
        ]
        files[name] = folder / f"{name}.jsonl"
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        files[name].write_text(text, encoding="utf-8")
    return files


@pytest.fixture(scope="session")
def recipe(tiny_model_folder: Path, data_files: dict[str, Path]) -> str:
    """Three phases, dropout, a penalty and rehearsal on the tiny model; 14 steps."""
    return f"""
model: {tiny_model_folder}
sources:
  talk: {{path: {data_files["talk"]}, category: dialogue}}
  tale: {{path: {data_files["tale"]}, category: creative}}
  trade: {{path: {data_files["trade"]}}}
general: {data_files["general"]}
phases:
  - {{name: 대화, mixture: {{talk: 1}}}}
  - {{name: creative, mixture: {{talk: 0.5, tale: 1}}, learning_rate: 2.0e-3}}
  - {{name: domain, mixture: {{tale: 0.5, trade: 1}}, penalty_strength: 0.5}}
lora: {{rank: 2, dropout: 0.2}}
train: {{rows_per_step: 4, learning_rate: 5.0e-3, save_every: 3, max_steps: 14}}
penalty: {{kind: kronecker, strength: 0.1}}
replay: {{share: 0.2, source: records}}
"""


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


class Cli:
    """`mlx-loopai train` in a process of its own, on one thread."""

    def __init__(self, folder: Path, recipe: str) -> None:
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(recipe, encoding="utf-8")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "mlx_loopai", "train", str(self.recipe), *arguments]
        environment = os.environ | {"MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=ROOT)

    def end(self, process: subprocess.Popen[str], timeout_s: float = 240) -> Ended:
        out, err = process.communicate(timeout=timeout_s)
        return Ended(process.returncode, out, err)

    def run(self, *arguments: str) -> Ended:
        return self.end(self.start(*arguments))

    def stop_when(self, ready: Callable[[], bool], number: signal.Signals, *arguments: str) -> Ended:
        """Run until `ready`, then send the signal."""
        process = self.start(*arguments)
        while process.poll() is None and not ready():
            try:
                process.wait(0.005)
            except subprocess.TimeoutExpired:
                continue
        if process.poll() is None:
            process.send_signal(number)
        return self.end(process)


@pytest.fixture
def cli(tmp_path: Path, recipe: str) -> Cli:
    return Cli(tmp_path, recipe)


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory, recipe: str) -> Path:
    """The run folder of the recipe, trained in one go by the command line."""
    folder = tmp_path_factory.mktemp("unbroken")
    ended = Cli(folder, recipe).run("--out", str(folder / "run"), "--quiet")
    assert ended.status == 0, ended.err
    return folder / "run"
