"""Every architecture beside transformers: read, written back, trained and answering. Writes docs/architectures.md's table.

With MLX_LOOPAI_WRITE_PARITY=1 the table is written; without, it must name what is tried here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx_loopai  # noqa: F401

# isort: split
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from converters.convert import convert
from converters.peft import hf_module
from converters.writers.target import Target
from mlx_loopai.config import LoraOptions, SamplingOptions
from mlx_loopai.generation.engine import generate_stream
from mlx_loopai.models.architectures import ARCHITECTURES
from mlx_loopai.models.gradient import LossForm, Targets, compiled_gradient, eager_gradient
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import apply_lora, lora_modules
from mlx_loopai.models.micro_batch import MicroBatch
from tests.parity.tiny_models import KINDS, TOKENS, TOKENS_OF_TEXT, TOLERANCES, VOCAB, tiny_model
from tests.tiny_files import write_tokenizer
from tools.doc_markers import with_marked

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

DOCUMENT = Path(__file__).parents[2] / "docs" / "architectures.md"
WRITES = "MLX_LOOPAI_WRITE_PARITY"
ANSWER_TOKENS = 12
COLUMNS = {"in": "in: logits", "out": "out: logits", "train": "train: gradient", "generate": "generate"}
Figures = dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def figures() -> Iterator[Figures]:
    """Largest difference by kind and column; the table is written of them when all kinds were tried."""
    found: Figures = {}
    yield found
    if (
        os.environ.get(WRITES)
        and all(len(row) == len(COLUMNS) for row in found.values())
        and found.keys() == KINDS.keys()
    ):
        document = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(with_marked(document, "parity", table(found), DOCUMENT), encoding="utf-8")


def table(found: Figures) -> str:
    lines = [f"| transformers' class | {' | '.join(COLUMNS.values())} |", "|---|" + "---:|" * len(COLUMNS)]
    for kind in KINDS:
        cells = [f"{found[kind][column]:.0e}" for column in ("in", "out", "train")]
        equal = found[kind]["generate"]
        lines.append(f"| {named(kind)} | {' | '.join(cells)} | {equal:.0f} of {ANSWER_TOKENS} tokens |")
    return "\n".join(lines)


def named(kind: str) -> str:
    """`Llama-Kanana` -> `Llama (Kanana)`."""
    name, _, variant = kind.partition("-")
    return f"{name} ({variant})" if variant else name


@pytest.fixture(scope="module", params=[(kind, tied) for kind in KINDS for tied in (True, False)], ids=str)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    """(the kind, transformers' model, the folder that the converter made of it), tied and untied."""
    kind, tied = request.param
    model = tiny_model(kind.split("-")[0], tie_word_embeddings=tied, **KINDS[kind])
    folder = tmp_path_factory.mktemp("parity")
    model.save_pretrained(write_tokenizer(folder / "source", TOKENS_OF_TEXT))
    convert(folder / "source", folder / "out", dtype="fp32")
    return kind, model, folder / "out"


def note(figures: Figures, kind: str, column: str, value: float, worst: Any = max) -> None:
    row = figures.setdefault(kind, {})
    row[column] = worst(row[column], value) if column in row else value


def their_logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.float().numpy()


def test_in(case: tuple[str, Any, Path], figures: Figures) -> None:
    kind, model, folder = case
    found = np.array(load_model(str(folder), "fp32").model(mx.array(TOKENS)))
    difference = float(np.abs(found - their_logits(model)).max())
    note(figures, kind, "in", difference)
    assert difference < TOLERANCES.get(kind, 1e-4)


def test_out(case: tuple[str, Any, Path], figures: Figures, tmp_path: Path) -> None:
    kind, model, folder = case
    convert(folder, tmp_path / "hf", target=Target(to="hf", dtype="fp32"))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    difference = float(np.abs(their_logits(again) - their_logits(model)).max())
    note(figures, kind, "out", difference)
    assert difference < 1e-5


@pytest.mark.parametrize("build", [eager_gradient, compiled_gradient])
def test_train(case: tuple[str, Any, Path], figures: Figures, build: Any) -> None:
    """The gradient of each lora_b, at zero, is scale * lora_a^T dW^T, with dW by torch's autograd."""
    kind, model, folder = case
    model.zero_grad()
    model(torch.tensor(TOKENS), labels=torch.tensor(TOKENS)).loss.backward()
    theirs = {name.removesuffix(".weight"): parameter.grad for name, parameter in model.named_parameters()}
    loaded = load_model(str(folder), "fp32").model
    apply_lora(loaded, LoraOptions(rank=3), seed=0)
    batch = MicroBatch(TOKENS.astype(np.int32), np.ones(TOKENS.shape, np.bool_))
    (_, _), gradient = build(loaded, LossForm(chunk_rows=16, checkpointing=True))(
        mx.array(batch.ids[:, :-1]), Targets.of(batch)
    )
    flat, counted = dict(tree_flatten(gradient)), batch.supervised[:, 1:].sum()
    worst = 0.0
    for name, layer in lora_modules(loaded).items():
        of_weight = theirs[hf_module(name)].numpy()
        wanted = layer.scale * np.array(layer.lora_a).T @ of_weight.T
        found = np.array(flat[f"{name}.lora_b"]) / counted
        worst = max(worst, float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-3)))
    note(figures, kind, "train", worst)
    assert worst < 10 * TOLERANCES.get(kind, 1e-4)


def test_generate(case: tuple[str, Any, Path], figures: Figures) -> None:
    kind, model, folder = case
    prompt = TOKENS[0, :20].tolist()
    with torch.no_grad():
        answer = model.generate(
            torch.tensor([prompt]),
            # Else it takes the tokens of its padding's number for padding.
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            eos_token_id=None,
            # The rows of the head beyond the tokenizer's tokens, which we never choose.
            suppress_tokens=list(range(len(TOKENS_OF_TEXT), VOCAB)),
        )
    wanted = answer[0, len(prompt) :].tolist()
    loaded = load_model(str(folder), "fp32")
    loaded.tokenizer._eos_token_ids = set()
    options = SamplingOptions(temperature=0, max_tokens=ANSWER_TOKENS)
    found = [piece.token for piece in generate_stream(loaded, prompt, options)]
    equal = next(
        (place for place, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), len(wanted)
    )
    note(figures, kind, "generate", equal, worst=min)
    assert found == wanted


def test_the_table_names_every_kind() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert all(f"| {named(kind)} |" in document for kind in KINDS)
    assert all(f"`{name}`" in document for name in ARCHITECTURES)
