"""Rescales a finished run's adapter by a scale chosen on held-out rows, in minutes and without training."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_loopai.config import RunConfig
from mlx_loopai.data.records import Message
from mlx_loopai.data.rows import RowReader
from mlx_loopai.data.samples import texts
from mlx_loopai.data.sources import DOMAIN, GENERAL_CATEGORY, SAMPLES_PREFIX, read_source
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.perplexity import nll
from mlx_loopai.experiments.rescaling import LINES, SCALES, Point, best, sweep
from mlx_loopai.guards.rehearsal import WATCHED_ROWS, Answering, Rehearsal, general_prompts, self_rehearsal
from mlx_loopai.language import tr
from mlx_loopai.models.adapter_folder import read_adapter, scaled, write_adapter
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.runs.artifact_cache import fetch, keep, kept_path
from mlx_loopai.runs.context import RunContext
from mlx_loopai.training.monitor import Monitor

OPEN = f"{SAMPLES_PREFIX}open"


@dataclass(frozen=True)
class Tuned:
    """The points that were tried and the one that was chosen.

    A point's gain is the share of the whole adapter's improvement on the held-out domain rows; its retention is
    exp(-KL(base || adapted)) per token of the base's answers to general prompts that the run did not rehearse.
    """

    chosen: Point
    points: tuple[Point, ...]


def tune(context: RunContext, domain: str, floor: float) -> Tuned:
    """The best rescaling of the adapter on the context's model, which its run trained.

    domain: held-out rows, a file or samples/NAME, in no figure that is shown afterwards; "": the run's own. floor: the
    least retention.

    Raises: InputError when the adapter is not better than the base on `domain`: there is no gain to keep.
    """
    rows, loaded = context.held_out(domain), context.loaded
    monitor = Monitor(loaded.model, unrehearsed_rows(context), loaded.tokenizer)
    with adapter_disabled(loaded.model):
        base = nll(loaded.model, rows).nll_per_token
    whole = base - nll(loaded.model, rows).nll_per_token
    if whole <= 0:
        raise InputError(
            tr(
                "{domain}: the adapter is not better than the base on these rows; there is no gain to keep",
                domain=domain or context.directory.path,
            )
        )
    context.listener.stage(tr("rescaling"), len(SCALES) + len(LINES))
    points = sweep(
        loaded.model,
        gain=lambda: (base - nll(loaded.model, rows).nll_per_token) / whole,
        retention=lambda: monitor.read().kept,
        on_progress=context.listener.advance,
    )
    return Tuned(best(points, floor), tuple(points))


def write_rescaled(adapter: Path, out: Path, tuned: Tuned, n_blocks: int) -> None:
    """Write the adapter in `adapter`, rescaled as chosen, to the new folder `out`.

    Raises: InputError when something is at `out`, or for a DoRA adapter, which has no update apart from its base.
    """
    old, chosen = read_adapter(adapter), tuned.chosen.rescaling
    notes = old.notes | {"rescaling": {"first": chosen.first, "last": chosen.last}}
    if chosen.first == chosen.last:
        new = scaled(old, chosen.first)
    else:
        new = scaled(old, 1.0, lambda block: chosen.factor(block, n_blocks))
    write_adapter(out, replace(new, notes=notes))


def check_apart(domain: str, shown: str) -> None:
    """Check that no row of `domain`, on which a rescaling is chosen, is among the rows of `shown`, which are reported.

    Raises: InputError.
    """
    said, figures = ({record.messages for record in read_source(name, DOMAIN)} for name in (domain, shown))
    if both := len(said & figures):
        raise InputError(
            tr(
                "{domain}: {both} of its rows are in {shown} too, which the figures are made of; give others",
                domain=domain,
                both=both,
                shown=shown,
            )
        )


def unrehearsed_rows(context: RunContext) -> Sequence[TokenRow]:
    """The base's answers to general prompts that the run did not train on, kept for the next time."""
    loaded, listener = context.loaded, context.listener
    prompts = open_prompts(context.config, context.reader)
    answering = Answering(context.config.replay.answer_tokens)
    ids = [context.encoder.prompt_ids([Message("user", prompt)]) for prompt in prompts]
    abilities = [texts.abilities().get(prompt, "") for prompt in prompts]
    kept = kept_path("tune", loaded, [answering.answer_tokens, ids, abilities], ".jsonl")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / kept.name
        if not fetch(kept, path):
            listener.stage(tr("the base's answers"), len(prompts))
            with adapter_disabled(loaded.model):
                answers = self_rehearsal(loaded, context.encoder, prompts, answering, listener.advance)
            answers.save(path)
            keep(path, kept)
        rows = Rehearsal.load(path).rows
    if not rows:
        raise InputError(
            tr("general: the base's answers to the prompts all loop or are empty; give other general rows")
        )
    return rows


def open_prompts(config: RunConfig, reader: RowReader) -> list[str]:
    """At most WATCHED_ROWS prompts: general ones that were not rehearsed, else embedded ones.

    For the embedded model these are its own open questions, since the embedded prompts suit models that know more.
    """
    records = reader.records(config.general, GENERAL_CATEGORY)
    every = config.replay.model_copy(update={"source": "self", "max_prompts": 10**9})
    rehearsed: set[str] = set()
    if config.replay.source == "self":
        rehearsed = set(general_prompts(records, config.replay, config.train.seed, reader.tokenizer))
    elif config.replay.source == "records":
        rehearsed = {message.content for record in records for message in record.messages}
    spare = [reader.records(OPEN, GENERAL_CATEGORY)] if config.general.startswith(SAMPLES_PREFIX) else []
    for source in (records, *spare, []):
        prompts = general_prompts(source, every, 0, reader.tokenizer)
        found = [prompt for prompt in prompts if prompt not in rehearsed]
        if len(found) >= WATCHED_ROWS:
            break
    return found[:WATCHED_ROWS]
