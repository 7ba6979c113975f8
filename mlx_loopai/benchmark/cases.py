"""The input that all sides of a race share: model folder, rows, first adapter and settings, written to a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten

from mlx_loopai.config import LoraOptions
from mlx_loopai.data.encoding import encode_records
from mlx_loopai.data.sources import read_source
from mlx_loopai.data.tokens import ChatEncoder, TokenRow
from mlx_loopai.errors import InputError
from mlx_loopai.language import tr
from mlx_loopai.models.adapters import save_adapter
from mlx_loopai.models.load import NANO_FOLDER, TOKENIZER_FILES, build_model, load_model, load_tokenizer
from mlx_loopai.models.lora import apply_lora

FIXED_ROWS = 16
HELD_OUT_ROWS = 64
_CASE_FILE = "case.json"
# Sizes of the thin model: so small that nearly all time and memory are the head's.
_THIN = {"hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 256, "num_attention_heads": 4}


@dataclass(frozen=True)
class TrainCase:
    """A training race. steps: 0 is one epoch. scale: factor of B A, as in mlx-lm. The dtype is float32."""

    model: str
    rows_per_step: int = 4
    steps: int = 0
    rank: int = 8
    scale: float = 20.0
    learning_rate: float = 1e-5
    checkpointing: bool = False
    seed: int = 0

    @property
    def lora(self) -> LoraOptions:
        """Adapters on every linear layer of every block."""
        return LoraOptions(rank=self.rank, alpha=self.scale * self.rank)


@dataclass(frozen=True)
class GenerateCase:
    """A generation race: greedy answers to `prompts` (token ids), `batch` of them at a time."""

    model: str
    prompts: tuple[tuple[int, ...], ...]
    max_tokens: int = 64
    batches: tuple[int, ...] = (1, 2, 4, 8)


@dataclass(frozen=True)
class CaseRows:
    """Rows to train on and rows held out."""

    train: list[TokenRow]
    held_out: list[TokenRow]

    @property
    def fixed(self) -> list[TokenRow]:
        """The rows whose loss must be the same on every side before the first step."""
        return self.train[:FIXED_ROWS]


def file_rows(model: Path, file: Path, count: int, max_tokens: int, seed: int) -> CaseRows:
    """`count` rows of a data file or of samples/NAME (0: all), drawn by seed, and up to HELD_OUT_ROWS others.

    Raises: InputError when the file has too few rows, or rows with more than one answer, which mlx-lm cannot mask.
    """
    encoder = ChatEncoder(load_tokenizer(model))
    rows, _ = encode_records(encoder, read_source(str(file), "domain"), max_tokens)
    several = next((row.origin for row in rows if not _one_answer(row)), None)
    if several:
        raise InputError(
            tr(
                "{several}: has more than one answer, which mlx-lm cannot mask; race on single exchanges",
                several=several,
            )
        )
    order = np.random.default_rng(seed).permutation(len(rows))
    held_out = min(HELD_OUT_ROWS, len(rows) // 5)
    wanted = count or len(rows) - held_out
    if wanted + held_out > len(rows) or not held_out:
        raise InputError(
            tr(
                "{file}: {count} rows, but the race needs {wanted} and {held_out} held out",
                file=file,
                count=len(rows),
                wanted=wanted,
                held_out=max(1, held_out),
            )
        )
    shuffled = [rows[index] for index in order]
    return CaseRows(shuffled[held_out : held_out + wanted], shuffled[:held_out])


def equal_rows(vocabulary: int, length: int, count: int, seed: int) -> CaseRows:
    """Random rows of `length` tokens, half of each a prompt: there is nothing to pad, so the step alone counts."""
    if length < 4:
        raise InputError(tr("`equal_length` {length}: a row needs at least 4 tokens", length=length))
    generator = np.random.default_rng(seed)
    ids = generator.integers(0, vocabulary, (count + HELD_OUT_ROWS // 8, length), dtype=np.int32)
    taught = np.arange(length) >= length // 2
    rows = [TokenRow(row, taught, origin=f"random:{number}", category="domain") for number, row in enumerate(ids)]
    return CaseRows(rows[:count], rows[count:])


def write_thin_model(folder: Path, vocabulary: int, seed: int) -> Path:
    """Write a random Qwen2 model that is nearly all vocabulary, so that the loss dominates; returns `folder`."""
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
        "eos_token_id": 0,
        **_THIN,
    }
    folder.mkdir(parents=True)
    mx.random.seed(seed)
    weights = dict(tree_flatten(build_model(config).parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for pattern in (*TOKENIZER_FILES, "tokenizer_config.json"):
        for file in NANO_FOLDER.glob(pattern):
            shutil.copy(file, folder / file.name)
    return folder


def write_train_case(folder: Path, case: TrainCase, rows: CaseRows) -> None:
    """Write the case, its rows and the adapter that every side starts from."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _CASE_FILE).write_text(json.dumps(asdict(case)), encoding="utf-8")
    for name, some in (("train", rows.train), ("held_out", rows.held_out)):
        _write_rows(folder / f"{name}.npz", some)
    loaded = load_model(case.model, "fp32")
    apply_lora(loaded.model, case.lora, case.seed)
    save_adapter(folder / "adapter", loaded.model, case.lora, loaded.base_hash)


def read_train_case(folder: Path) -> tuple[TrainCase, CaseRows]:
    """What `write_train_case` wrote."""
    values = json.loads((folder / _CASE_FILE).read_text(encoding="utf-8"))
    return TrainCase(**values), CaseRows(_read_rows(folder / "train.npz"), _read_rows(folder / "held_out.npz"))


def answer_start(row: TokenRow) -> int:
    """Index of the first supervised token of a row, from which on all are supervised."""
    return int(np.argmax(row.supervised))


def _one_answer(row: TokenRow) -> bool:
    return bool(row.supervised[answer_start(row) :].all())


def _write_rows(path: Path, rows: Sequence[TokenRow]) -> None:
    lengths = np.array([len(row.ids) for row in rows], np.int64)
    starts = np.array([answer_start(row) for row in rows], np.int64)
    np.savez(path, ids=np.concatenate([row.ids for row in rows]), lengths=lengths, starts=starts)


def _read_rows(path: Path) -> list[TokenRow]:
    with np.load(path) as stored:
        arrays: dict[str, npt.NDArray[np.int64]] = dict(stored)
    ends = np.cumsum(arrays["lengths"])
    parts = zip(ends - arrays["lengths"], ends, arrays["starts"], strict=True)
    return [
        TokenRow(
            arrays["ids"][begin:end].astype(np.int32),
            np.arange(end - begin) >= start,
            origin=f"row {number}",
            category="domain",
        )
        for number, (begin, end, start) in enumerate(parts)
    ]
