"""Measures a model of a comparison, base or tuned: suite, domain losses, examples; keeps the raw results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_loopai.config import RunConfig
from mlx_loopai.data.encoding import encode_records
from mlx_loopai.data.records import Message
from mlx_loopai.data.row_identity import rows_digest
from mlx_loopai.data.sources import read_source
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.perplexity import RowLosses, nll
from mlx_loopai.evaluation.retention import Retention
from mlx_loopai.evaluation.suite_run import SuiteResult
from mlx_loopai.evaluation.suites import default_suite, read_suite
from mlx_loopai.evaluation.tasks import Asked, Task
from mlx_loopai.experiments.suite_answers import measure_suite
from mlx_loopai.files import digest_name, write_whole
from mlx_loopai.generation.engine import Generation, SamplingOptions, generate_batch
from mlx_loopai.language import tr
from mlx_loopai.models.load import LoadedModel, resolve_model
from mlx_loopai.runs.documents.comparison import Example
from mlx_loopai.runs.listener import Listener
from mlx_loopai.text.measures import json_shaped

# Held-out rows for the embedded stories that a recipe may train on.
EMBEDDED_HELD_OUT = "samples/hurting_held_out"
EXAMPLE_TOKENS = 160


@dataclass(frozen=True)
class Measure:
    """How every model of a comparison is measured: on the suite `tasks`, and on what it learnt.

    domain: held-out domain rows, a file or samples/NAME. taught, prompts: requests of such rows, and any others, that
    are answered for people to read.
    """

    tasks: Sequence[Task]
    domain: str
    taught: Sequence[str] = ()
    prompts: Sequence[str] = ()


def measure_for(config: RunConfig, suite: str | None = None, limit: int | None = None) -> Measure:
    """How the arms of `config` are measured: on a suite, by default what suits the model, and on its held-out rows.

    One domain prompt and one question of each task are answered for people to read.
    Raises: InputError for an unknown suite, or a recipe that names no held-out rows.
    """
    domain = held_out_rows(config)
    first = read_source(domain, "domain")[0].messages[:1]
    told = [message.content for message in first if message.role == "user"]
    tasks = read_suite(suite or default_suite(resolve_model(config.model)), limit)
    asked = [task.items[0].prompt for task in tasks if isinstance(task, Asked)]
    return Measure(tasks, domain, taught=told, prompts=asked)


def held_out_rows(config: RunConfig) -> str:
    """The recipe's validation rows; those of the embedded sources where it trains on nothing else.

    Raises: InputError when there are none.
    """
    if config.validation:
        return config.validation
    if config.sources and all(source.path.startswith("samples/") for source in config.sources.values()):
        return EMBEDDED_HELD_OUT
    raise InputError(
        tr("`validation`: the gain needs held-out domain rows; give `validation: FILE` in the configuration")
    )


@dataclass(frozen=True)
class Measurement:
    """What a model (base or tuned) scores: general ability, domain losses, answers to the example prompts.

    noise_floor: of a base, what rounding leaves of its general ability; None where that was not measured.
    """

    general: SuiteResult
    domain: RowLosses
    examples: tuple[Example, ...]
    noise_floor: Retention | None = None


def measure_model(
    loaded: LoadedModel, config: RunConfig, measure: Measure, listener: Listener, label: str, folder: Path
) -> Measurement:
    """General ability, domain losses and example answers of one model, greedy; raw results are kept in `folder`.

    folder: the cache of base models, or the folder of the run that made the adapter.
    """
    encoder = ChatEncoder(loaded.tokenizer, config.system_prompt)
    return Measurement(
        measure_suite(loaded, encoder, measure.tasks, listener, label, folder),
        domain_losses(loaded, config, measure.domain, folder),
        _examples(loaded, encoder, measure),
    )


def domain_losses(loaded: LoadedModel, config: RunConfig, domain: str, folder: Path) -> RowLosses:
    """The losses on the held-out rows of `domain`, kept in `folder`."""
    encoder = ChatEncoder(loaded.tokenizer, config.system_prompt)
    rows, _ = encode_records(encoder, read_source(domain, "domain"), config.train.max_tokens)
    path = folder / f"domain-{digest_name([*loaded.cache_key, rows_digest(rows)])}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return RowLosses(np.array(kept["nll"], np.float64), np.array(kept["tokens"], np.int64))
    except (OSError, ValueError, KeyError, TypeError):
        losses = nll(loaded.model, rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"nll": losses.nll.tolist(), "tokens": losses.tokens.tolist()}))
    return losses


def _examples(loaded: LoadedModel, encoder: ChatEncoder, measure: Measure) -> tuple[Example, ...]:
    shown = (*measure.taught, *measure.prompts)
    prompts = [encoder.prompt_ids([Message("user", prompt)]) for prompt in shown]
    answers = generate_batch(loaded, prompts, SamplingOptions(temperature=0.0, max_tokens=EXAMPLE_TOKENS))
    in_json = bool(measure.taught) and json_shaped(read_source(measure.domain, "domain")[0].messages[-1].content)
    return tuple(
        Example(
            prompt=prompt,
            answer=answer.text,
            right=_right(measure, prompt, answer),
            json_taught=in_json and prompt in measure.taught,
        )
        for prompt, answer in zip(shown, answers, strict=True)
    )


def _right(measure: Measure, prompt: str, answer: Generation) -> bool | None:
    """Whether the answer is right, where the prompt is a question of the suite; else None."""
    for task in measure.tasks:
        if isinstance(task, Asked):
            for item in task.items:
                if item.prompt == prompt:
                    return task.judge.verdict(item, answer.text, answer.finished).right
    return None
