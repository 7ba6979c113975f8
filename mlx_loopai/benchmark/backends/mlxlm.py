"""mlx-lm's own trainer and generator, as shipped."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optimizers
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_lm.generate import batch_generate, stream_generate
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.datasets import CacheDataset
from mlx_lm.tuner.trainer import TrainingArgs, default_loss, iterate_batches, train
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model as read_model
from mlx_lm.utils import load_tokenizer

from mlx_loopai.benchmark.backends.mlx_memory import MlxMemory
from mlx_loopai.benchmark.cases import CaseRows, TrainCase, answer_start
from mlx_loopai.benchmark.race_results import StepClock, StepTokens
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.models.adapters import CONFIG_FILE, WEIGHTS_FILE
from mlx_loopai.models.load import load_tokenizer as own_tokenizer


class _ChatRows:
    """Rows in the form of mlx-lm's ChatDataset: tables of one key, tokenised when first asked for."""

    def __init__(self, rows: Sequence[TokenRow]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"messages": index}

    def process(self, row: dict[str, int]) -> tuple[list[int], int]:
        found = self._rows[row["messages"]]
        return found.ids.tolist(), answer_start(found)


class MlxLmSide(MlxMemory):
    """A model loaded by mlx-lm, with the adapter in its own LoRA layers."""

    def __init__(self, model: Path, adapter: Path | None) -> None:
        super().__init__({"mlx-lm": version("mlx-lm")})
        self._model, _ = read_model(model, lazy=True)
        wanted = tree_map(
            lambda array: array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array,
            self._model.parameters(),
        )
        self._model.update(wanted)
        mx.eval(self._model.parameters())
        self._tokenizer = load_tokenizer(model, eos_token_ids=_eos(model))
        self._adapter = adapter
        if adapter is not None:
            self._model.freeze()
            load_adapters(self._model, str(adapter))
            mx.eval(self._model.parameters())

    def loss(self, rows: Sequence[TokenRow]) -> float:
        """Row by row and without padding: where nothing is padded, mlx-lm's targets are the supervised tokens."""
        self._model.eval()
        total, count = 0.0, 0
        for row in rows:
            lengths = mx.array([[answer_start(row), len(row.ids)]])
            mean, tokens = default_loss(self._model, mx.array(row.ids)[None], lengths)
            total, count = total + mean.item() * tokens.item(), count + tokens.item()
        return total / count

    def train(self, case: TrainCase, rows: CaseRows, clock: StepClock) -> None:
        steps = case.steps or len(rows.train) // case.rows_per_step
        timed = _TimedBatches(clock)
        optimizer = optimizers.Adam(case.learning_rate)
        # Otherwise its state would appear in the first step, and the second step would be compiled again.
        optimizer.init(self._model.trainable_parameters())
        with tempfile.TemporaryDirectory() as scratch:
            arguments = TrainingArgs(
                batch_size=case.rows_per_step,
                iters=steps,
                max_seq_length=max(2048, *(len(row.ids) for row in rows.train)),
                steps_per_report=steps,  # one report, at the end
                steps_per_save=steps + 1,
                adapter_file=f"{scratch}/adapters.safetensors",
                grad_checkpoint=case.checkpointing,
            )
            train(
                self._model,
                optimizer,
                CacheDataset(_ChatRows(rows.train)),
                args=arguments,
                iterate_batches=lambda **options: timed.over(iterate_batches(**{**options, "seed": case.seed})),
                training_callback=timed,
            )
        self._model.eval()

    def save_adapter(self, folder: Path) -> None:
        assert self._adapter is not None
        folder.mkdir(parents=True)
        mx.save_safetensors(str(folder / WEIGHTS_FILE), dict(tree_flatten(self._model.trainable_parameters())))
        shutil.copy(self._adapter / CONFIG_FILE, folder / CONFIG_FILE)

    def generate(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
        lists = [list(prompt) for prompt in prompts]
        if len(lists) > 1:
            answers = batch_generate(
                self._model, self._tokenizer, lists, max_tokens=max_tokens, return_token_ids=True
            ).token_ids
        else:
            responses = stream_generate(self._model, self._tokenizer, lists[0], max_tokens=max_tokens)
            answers = [[response.token for response in responses]]
        ends = self._tokenizer.eos_token_ids
        return [[token for token in answer if token not in ends] for answer in answers]


class _TimedBatches(TrainingCallback):
    """Sits between mlx-lm's batches and its loop: a step lasts from asking for one batch to asking for the next.

    The last one ends with the trainer's only report.
    """

    def __init__(self, clock: StepClock) -> None:
        self._clock = clock
        self._open: tuple[Any, StepTokens] | None = None

    def over(self, batches: Iterator[tuple[mx.array, mx.array]]) -> Iterator[tuple[mx.array, mx.array]]:
        while True:
            self._clock.start()
            batch, bounds = next(batches)
            starts, ends = np.array(bounds).T
            self._open = (batch.shape, StepTokens(int(ends.sum()), int((ends - starts).sum()), batch.size))
            yield batch, bounds
            self._close()

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        self._close()

    def _close(self) -> None:
        if self._open is not None:
            shape, held = self._open
            self._clock.stop({shape}, held)
            self._open = None


def open_side(model: Path, adapter: Path | None, backend: str) -> MlxLmSide:
    return MlxLmSide(model, adapter)


def _eos(model: Path) -> list[int] | None:
    """The same ends of text as mlx-loopai's, so that both stop at the same token."""
    return sorted(own_tokenizer(model).eos_token_ids)
