"""Losses of judged answers and their gradients beside TRL's trainers, on a tiny random Qwen2 and the same token ids."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx_loopai  # noqa: F401

# isort: split
import mlx.core as mx
import mlx.optimizers as optimizers
import numpy as np
import pytest
from mlx.utils import tree_flatten

from converters.convert import convert
from converters.peft import hf_module
from mlx_loopai.config import LoraOptions, PreferenceOptions, TrainPath
from mlx_loopai.data.batches import collate
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.evaluation.perplexity import nll, token_log_probabilities
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import apply_lora, lora_modules
from mlx_loopai.models.micro_batch import MicroBatch
from mlx_loopai.training.group_loss import clipped_losses
from mlx_loopai.training.objective import Objective
from mlx_loopai.training.phases import Phase
from mlx_loopai.training.step import StepSettings, TrainStep
from tests.parity.tiny_models import TOKENS_OF_TEXT, VOCAB, tiny_model
from tests.tiny_files import write_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("trl")

pytestmark = [
    pytest.mark.parity,
    # TRL asks transformers under names that go away, and warns that some of its own trainers are experimental.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

LORA = LoraOptions(rank=3, alpha=6.0)
# Prompt, chosen and rejected answer: how many tokens each.
LENGTHS = ((5, 9, 12), (3, 14, 6), (7, 4, 4))
# TRL's ORPO also counts the prompt's tokens, and its terms of single tokens are means over a batch, ours over an
# answer: with one token of prompt and answers as long as one another both are the same.
ALIKE = ((1, 8, 12), (1, 8, 6), (1, 8, 4))


@dataclass(frozen=True)
class Triple:
    """Token ids of a prompt and of two answers to it."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def triples(lengths: Sequence[tuple[int, int, int]]) -> list[Triple]:
    rng = np.random.default_rng(11)
    return [Triple(*(rng.integers(0, VOCAB, count).tolist() for count in counts)) for counts in lengths]


def padded(rows: Sequence[tuple[list[int], list[int]]]) -> dict[str, Any]:
    """Prompts with answers, padded to one width, as TRL's collators give them."""
    width = max(len(prompt) + len(answer) for prompt, answer in rows)

    def filled(parts: Callable[[list[int], list[int]], list[int]], pad: int = 0) -> Any:
        return torch.tensor([(own := parts(*row)) + [pad] * (width - len(own)) for row in rows])

    return {
        "input_ids": filled(lambda prompt, answer: prompt + answer),
        "attention_mask": filled(lambda prompt, answer: [1] * len(prompt + answer)),
        "completion_mask": filled(lambda prompt, answer: [0] * len(prompt) + [1] * len(answer)),
        "labels": filled(lambda prompt, answer: [-100] * len(prompt) + answer, -100),
    }


@dataclass(frozen=True)
class Theirs:
    """transformers' base and the policy that trains, with a tokenizer, which TRL's trainers want to have."""

    base: Any
    policy: Any
    tokenizer: Any
    folder: Path

    def arguments(self) -> dict[str, Any]:
        return {"output_dir": str(self.folder / "trl"), "use_cpu": True, "bf16": False, "report_to": []}

    def trainer(self, kind: Any, config: Any, **more: Any) -> Any:
        """One of TRL's trainers. What it is given to train on is not looked at: batches are handed over as they are."""
        from datasets import Dataset

        rows: dict[str, list[Any]] = {"prompt": ["a", "b"], "chosen": ["c", "d"], "rejected": ["e", "f"]}
        if "KTO" in kind.__name__:
            rows = {"prompt": ["a", "b"], "completion": ["c", "d"], "label": [True, False]}
        return kind(
            model=self.policy,
            args=config,
            train_dataset=Dataset.from_dict(rows),
            processing_class=self.tokenizer,
            **more,
        )


def dpo(theirs: Theirs, rows: list[Triple], **options: Any) -> Any:
    from trl import DPOConfig, DPOTrainer

    trainer = theirs.trainer(DPOTrainer, DPOConfig(**theirs.arguments(), **options), ref_model=theirs.base)
    answers = [(row.prompt, row.chosen) for row in rows] + [(row.prompt, row.rejected) for row in rows]
    batch = padded(answers)
    del batch["labels"]
    return trainer._compute_loss(trainer.model, batch, return_outputs=False)


def kto(theirs: Theirs, rows: list[Triple], **options: Any) -> Any:
    """All answers as labelled ones; z from every prompt with the next one's answer."""
    from trl import KTOConfig, KTOTrainer

    config = KTOConfig(**theirs.arguments(), per_device_train_batch_size=2, **options)
    trainer = theirs.trainer(KTOTrainer, config, ref_model=theirs.base)
    answers = [(row.prompt, row.chosen) for row in rows] + [(row.prompt, row.rejected) for row in rows]
    crossed = [(prompt, answer) for (prompt, _), (_, answer) in zip(answers, [*answers[1:], answers[0]], strict=True)]
    batch = padded(answers) | {f"KL_{name}": array for name, array in padded(crossed).items()}
    del batch["labels"], batch["KL_labels"]
    batch["label"] = torch.tensor([True] * len(rows) + [False] * len(rows))
    loss = trainer._compute_loss(trainer.model, batch, return_outputs=False)
    (z,) = trainer._metrics["train"]["kl"] + trainer._metrics["eval"]["kl"]
    assert z > 0  # else kto would be apo, whatever its z is made of
    return loss


def without_reference(theirs: Theirs, rows: list[Triple], kind: Any, config: Any) -> Any:
    batch: dict[str, Any] = {}
    for name in ("chosen", "rejected"):
        arrays = padded([(row.prompt, getattr(row, name)) for row in rows])
        batch |= {f"{name}_{key}": arrays[key] for key in ("input_ids", "attention_mask", "labels")}
    loss, _ = theirs.trainer(kind, config).get_batch_loss_metrics(theirs.policy, batch)
    return loss


def orpo(theirs: Theirs, rows: list[Triple], **options: Any) -> Any:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    config = ORPOConfig(**theirs.arguments(), remove_unused_columns=False, **options)
    return without_reference(theirs, rows, ORPOTrainer, config)


def simpo(theirs: Theirs, rows: list[Triple], **options: Any) -> Any:
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    given = {"loss_type": "simpo", "cpo_alpha": 0.0, "remove_unused_columns": False}
    return without_reference(theirs, rows, CPOTrainer, CPOConfig(**theirs.arguments(), **given, **options))


PLAIN = {"sft_weight": 0.0}
CASES: dict[str, tuple[dict[str, Any], Any, Sequence[tuple[int, int, int]], dict[str, Any]]] = {
    "dpo": ({"objective": "dpo"} | PLAIN, dpo, LENGTHS, {"loss_type": ["sigmoid"], "beta": 0.1}),
    "dpo norm": (
        {"objective": "dpo", "variant": "norm", "beta": 2.0} | PLAIN,
        dpo,
        LENGTHS,
        {"loss_type": ["sigmoid_norm"], "beta": 2.0},
    ),
    "dpo ipo": (
        {"objective": "dpo", "variant": "ipo", "beta": 0.3} | PLAIN,
        dpo,
        LENGTHS,
        {"loss_type": ["ipo"], "beta": 0.3},
    ),
    "dpo with the chosen answer's own loss": (
        {"objective": "dpo", "beta": 0.2, "sft_weight": 0.3},
        dpo,
        ALIKE,
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3], "beta": 0.2},
    ),
    "apo": ({"objective": "apo", "beta": 0.2} | PLAIN, dpo, LENGTHS, {"loss_type": ["apo_zero"], "beta": 0.2}),
    "kto": (
        {"objective": "kto", "beta": 0.2, "desirable": 1.3, "undesirable": 0.6} | PLAIN,
        kto,
        LENGTHS,
        {"loss_type": "kto", "beta": 0.2, "desirable_weight": 1.3, "undesirable_weight": 0.6},
    ),
    "orpo": ({"objective": "orpo", "beta": 0.4}, orpo, ALIKE, {"beta": 0.4}),
    "simpo": (
        {"objective": "simpo", "gamma": 0.7, "label_smoothing": 0.1} | PLAIN,
        simpo,
        LENGTHS,
        {"beta": 2.0, "simpo_gamma": 0.7, "label_smoothing": 0.1},
    ),
}
# TRL's KTO takes the mean over answers, ours over pairs where there are pairs.
LABELLED = ("kto",)


@dataclass(frozen=True)
class Both:
    """The same base with the same adapter: ours, and transformers' with the update in its weights."""

    folder: Path
    base: Any
    policy: Any
    tokenizer: Any


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("preference")
    base = tiny_model("Qwen2")
    base.save_pretrained(write_tokenizer(folder / "source", TOKENS_OF_TEXT))
    convert(folder / "source", folder / "mlx", dtype="fp32")
    policy = copy.deepcopy(base)
    for name, layer in lora_modules(adapted(folder).model).items():
        with torch.no_grad():
            update = np.array(layer.scale * (layer.lora_a @ layer.lora_b)).T
            policy.get_submodule(hf_module(name)).weight += torch.tensor(update)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "source")
    tokenizer.pad_token = tokenizer.eos_token
    return Both(folder, base, policy, tokenizer)


def adapted(folder: Path) -> Any:
    """Our model with an adapter that does something, always the same."""
    loaded = load_model(str(folder / "mlx"), "fp32")
    apply_lora(loaded.model, LORA, seed=1)
    mx.random.seed(2)
    for layer in lora_modules(loaded.model).values():
        layer.lora_b = 0.1 * mx.random.normal(layer.lora_b.shape)
    return loaded


def encoded(prompt: list[int], answer: list[int]) -> TokenRow:
    ids = np.array(prompt + answer, np.int32)
    return TokenRow(ids, np.arange(len(ids)) >= len(prompt), "", "domain")


def our_rows(both: Both, rows: list[Triple], labelled: bool) -> list[TokenRow]:
    """The rows of a run, with what the base makes of the answers."""
    answers = [encoded(row.prompt, row.chosen) for row in rows] + [encoded(row.prompt, row.rejected) for row in rows]
    likely = -nll(load_model(str(both.folder / "mlx"), "fp32").model, answers).nll
    referred = [replace(row, reference=float(value)) for row, value in zip(answers, likely, strict=True)]
    if labelled:
        return [replace(row, good=place < len(rows)) for place, row in enumerate(referred)]
    return [replace(row, rejected=referred[place + len(rows)]) for place, row in enumerate(referred[: len(rows)])]


def stepped(both: Both, rows: list[TokenRow], options: PreferenceOptions, path: TrainPath) -> tuple[float, Any]:
    """(our loss, its gradient by the adapter's matrices), from a step of a whole run."""
    phase = Phase("p", tuple(rows), ((tuple(range(len(rows))),),), (24,), 1.0, 0.0, Objective())
    return stepped_on(both, phase.batches(0), options, path)


def stepped_on(
    both: Both, batches: list[MicroBatch], options: PreferenceOptions, path: TrainPath
) -> tuple[float, dict[str, Any]]:
    """The same from a step on `batches`."""
    model = adapted(both.folder).model
    before = dict(tree_flatten(model.trainable_parameters()))
    settings = StepSettings(clip=0.0, chunk_rows=8, path=path, preference=options)
    result = TrainStep(model, optimizers.SGD(1.0), settings)(batches, 1.0)
    after = dict(tree_flatten(model.trainable_parameters()))
    return result.loss, {name: np.array(before[name] - after[name]) for name in before}


def check_gradient(both: Both, policy: Any, gradient: dict[str, Any]) -> None:
    """The gradient by our factors follows from that by the weights of transformers' `policy`."""
    for module, layer in lora_modules(adapted(both.folder).model).items():
        of_weight = layer.scale * policy.get_submodule(hf_module(module)).weight.grad.numpy()
        a, b = np.array(layer.lora_a), np.array(layer.lora_b)
        for matrix, by_matrix in (("lora_a", (b @ of_weight).T), ("lora_b", (of_weight @ a).T)):
            difference = np.abs(gradient[f"{module}.{matrix}"] - by_matrix).max()
            assert difference < 1e-4 * np.abs(by_matrix).max(), f"{module}.{matrix}"


@pytest.mark.parametrize("path", ["eager", "compiled"])
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_trl(both: Both, tmp_path: Path, name: str, path: TrainPath) -> None:
    ours, trainer, lengths, options = CASES[name]
    rows = triples(lengths)
    policy = copy.deepcopy(both.policy)
    wanted = trainer(Theirs(copy.deepcopy(both.base), policy, both.tokenizer, tmp_path), rows, **options)
    wanted.backward()
    loss, gradient = stepped(both, our_rows(both, rows, name in LABELLED), PreferenceOptions(**ours), path)
    assert loss == pytest.approx(wanted.item(), abs=1e-5, rel=1e-5)
    check_gradient(both, policy, gradient)


def grpo(theirs: Theirs, rows: list[Triple], advantages: list[float], before: Any) -> Any:
    """before: log-probabilities of the answers' tokens when they were drawn; None: the policy's own."""
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        **theirs.arguments(), loss_type="dapo", temperature=1.0, beta=0.0, epsilon=0.2, num_generations=2,
        per_device_train_batch_size=2,
    )  # fmt: skip
    trainer = theirs.trainer(GRPOTrainer, config, reward_funcs=lambda completions, **_: [0.0] * len(completions))
    trainer.current_gradient_accumulation_steps = config.steps_per_generation
    width, longest = max(len(row.prompt) for row in rows), max(len(row.chosen) for row in rows)

    def filled(row: list[int], size: int, left: bool) -> list[int]:
        return [0] * (size - len(row)) + row if left else row + [0] * (size - len(row))

    inputs = {
        "prompt_ids": torch.tensor([filled(row.prompt, width, True) for row in rows]),
        "prompt_mask": torch.tensor([filled([1] * len(row.prompt), width, True) for row in rows]),
        "completion_ids": torch.tensor([filled(row.chosen, longest, False) for row in rows]),
        "completion_mask": torch.tensor([filled([1] * len(row.chosen), longest, False) for row in rows]),
        "advantages": torch.tensor(advantages),
        "num_items_in_batch": torch.tensor(sum(len(row.chosen) for row in rows)),
    }
    if before is not None:
        inputs["old_per_token_logps"] = torch.tensor(
            np.array([np.pad(own, (0, longest - len(own))) for own in before], np.float32)
        )
    return trainer._compute_loss(trainer.model, inputs)


@pytest.mark.parametrize("path", ["eager", "compiled"])
@pytest.mark.parametrize("again", [False, True], ids=["first update", "second update"])
def test_grpo_is_that_of_trl(both: Both, tmp_path: Path, again: bool, path: TrainPath) -> None:
    """TRL's `loss_type: dapo` on answers that the base drew, or that the policy drew itself."""
    rows, advantages = triples(LENGTHS), [1.1, -0.8, -0.3]
    batch = collate([encoded(row.prompt, row.chosen) for row in rows], 24)
    before = None
    if again:
        drawn = token_log_probabilities(load_model(str(both.folder / "mlx"), "fp32").model, batch)
        before = [own[supervised] for own, supervised in zip(drawn, batch.supervised, strict=True)]
        batch = replace(batch, drawn=drawn)
    policy = copy.deepcopy(both.policy)
    wanted = grpo(Theirs(copy.deepcopy(both.base), policy, both.tokenizer, tmp_path), rows, advantages, before)
    wanted.backward()
    own = token_log_probabilities(adapted(both.folder).model, batch)[batch.supervised]
    gained = own - (own if before is None else np.concatenate(before))
    of_rows = np.repeat(advantages, [len(row.chosen) for row in rows])
    losses = clipped_losses(gained, of_rows, 0.2)
    assert (losses.by_token == 0).any() == again  # the clip acts on some tokens
    assert losses.losses.mean() == pytest.approx(wanted.item(), abs=1e-5)
    batches = [replace(batch, advantages=np.array(advantages, np.float32))]
    _, gradient = stepped_on(both, batches, PreferenceOptions(objective="grpo"), path)
    check_gradient(both, policy, gradient)
