"""What a comparison measures of a model, base or tuned, the same way for all of them and kept where it was made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_loopai.config import RunConfig
from mlx_loopai.data.records import Message
from mlx_loopai.data.rows import rows_digest
from mlx_loopai.data.samples import corpus
from mlx_loopai.data.sources import read_source
from mlx_loopai.data.tokens import ChatEncoder, encode_records
from mlx_loopai.evaluation import base_cache, suite_run
from mlx_loopai.evaluation.judge import judge
from mlx_loopai.evaluation.measure import measure as measure_general
from mlx_loopai.evaluation.perplexity import RowLosses, nll
from mlx_loopai.evaluation.probes import MAX_ANSWER_TOKENS, Probe, ProbeResult
from mlx_loopai.evaluation.questions import judge_answer
from mlx_loopai.evaluation.suite import Asked, Task
from mlx_loopai.files import write_whole
from mlx_loopai.generation.engine import Generation, SamplingOptions, generate_batch
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.runs.documents.comparison import Example
from mlx_loopai.runs.listener import Listener

EXAMPLE_TOKENS = 160
HELD_OUT = "held_out"


@dataclass(frozen=True)
class Measure:
    """How every model of a comparison is measured: probes, or a suite's `tasks` in their place.

    domain: held-out domain rows, a file or samples/NAME; prompts: answered for people to read.
    """

    probes: Sequence[Probe]
    domain: str
    prompts: Sequence[str]
    tasks: Sequence[Task] = ()


@dataclass(frozen=True)
class General:
    """General ability: judged results, nats per token of general texts by name, purity of Korean answers."""

    results: tuple[ProbeResult, ...]
    nll: dict[str, float]
    purity: float | None


@dataclass(frozen=True)
class Measurement:
    """What a model (base or tuned) scores: general ability, domain losses, answers to the example prompts."""

    general: General
    domain: RowLosses
    examples: tuple[Example, ...]


def measure_model(
    loaded: LoadedModel, config: RunConfig, measure: Measure, listener: Listener, label: str, folder: Path
) -> Measurement:
    """General ability, domain losses and example answers of one model, greedy; raw results are kept in `folder`.

    folder: the cache of base models, or the folder of the run that made the adapter.
    """
    encoder = ChatEncoder(loaded.tokenizer, config.system_prompt)
    found = _suite if measure.tasks else _probes
    general = found(loaded, encoder, config, measure, listener, label, folder)
    return Measurement(
        general, domain_losses(loaded, config, measure.domain, folder), _examples(loaded, encoder, measure)
    )


def domain_losses(loaded: LoadedModel, config: RunConfig, domain: str, folder: Path) -> RowLosses:
    """The losses on the held-out rows of `domain`, kept in `folder`."""
    encoder = ChatEncoder(loaded.tokenizer, config.system_prompt)
    rows, _ = encode_records(encoder, read_source(domain, "domain"), config.train.max_tokens)
    parts = [loaded.base_hash, str(loaded.model.model.norm.weight.dtype), rows_digest(rows)]
    path = folder / f"domain-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return RowLosses(np.array(kept["nll"], np.float64), np.array(kept["tokens"], np.int64))
    except (OSError, ValueError, KeyError, TypeError):
        losses = nll(loaded.model, rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"nll": losses.nll.tolist(), "tokens": losses.tokens.tolist()}))
    return losses


def _probes(
    loaded: LoadedModel,
    encoder: ChatEncoder,
    config: RunConfig,
    measure: Measure,
    listener: Listener,
    label: str,
    folder: Path,
) -> General:
    held_out = corpus.held_out_texts()
    named = base_cache.cache_path(loaded, config.system_prompt, measure.probes, held_out, MAX_ANSWER_TOKENS)
    path = folder / named.name
    found = base_cache.read(path, measure.probes)
    if found is None:
        listener.stage(f"probes of {label}", sum(len(probe.items) for probe in measure.probes))
        found = measure_general(loaded, encoder, measure.probes, held_out, on_progress=listener.advance)
        base_cache.write(path, found)
    return General(found.results, {HELD_OUT: found.held_out_nll}, found.purity)


def _suite(
    loaded: LoadedModel,
    encoder: ChatEncoder,
    config: RunConfig,
    measure: Measure,
    listener: Listener,
    label: str,
    folder: Path,
) -> General:
    if not suite_run.is_kept(loaded, config.system_prompt, measure.tasks, folder):
        listener.stage(f"suite on {label}", sum(len(task.items) for task in measure.tasks))
    run = suite_run.kept_run(loaded, encoder, config.system_prompt, measure.tasks, folder, listener.advance)
    results = suite_run.results(measure.tasks, run)
    return General(tuple(results), run.nll, suite_run.purity_of(measure.tasks, results))


def _examples(loaded: LoadedModel, encoder: ChatEncoder, measure: Measure) -> tuple[Example, ...]:
    prompts = [encoder.prompt_ids([Message("user", prompt)]) for prompt in measure.prompts]
    answers = generate_batch(loaded, prompts, SamplingOptions(temperature=0.0, max_tokens=EXAMPLE_TOKENS))
    return tuple(
        Example(prompt=prompt, answer=answer.text, right=_right(measure, prompt, answer))
        for prompt, answer in zip(measure.prompts, answers, strict=True)
    )


def _right(measure: Measure, prompt: str, answer: Generation) -> bool | None:
    for item in (item for probe in measure.probes for item in probe.items):
        if item.prompt == prompt:
            return judge(item, answer.text, answer.finished).right
    for question in (item for task in measure.tasks if isinstance(task, Asked) for item in task.items):
        if question.prompt == prompt:
            return judge_answer(question, answer.text).right
    return None
