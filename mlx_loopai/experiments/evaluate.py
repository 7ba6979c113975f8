"""Evaluates a model, and how much of its general ability an adapter has left: the work of `mlx-loopai evaluate`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx_loopai.data.records import Message
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.evaluation.retention import Retention, TaskRetention, counted, retention, well_above_chance
from mlx_loopai.evaluation.suite_run import SuiteResult
from mlx_loopai.evaluation.suites import default_suite, read_suite
from mlx_loopai.evaluation.tasks import JudgedAnswer, Task, TaskResult, shows_pictures
from mlx_loopai.experiments.noise_floor import left_by_noise, noise_floor
from mlx_loopai.experiments.suite_answers import measure_suite
from mlx_loopai.files import cache_folder
from mlx_loopai.generation.session import AdapterWhen, Session, open_session
from mlx_loopai.generation.switch import Switch
from mlx_loopai.language import tr
from mlx_loopai.models.adapters import note_retention
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.runs.base_of_adapter import base_of
from mlx_loopai.runs.documents.evaluation import EvaluatedTask, Evaluation, LostAnswer, ModelScores, TextLikelihood
from mlx_loopai.runs.documents.figures import TaskScore
from mlx_loopai.runs.listener import Listener, Silent
from mlx_loopai.training.card import retention_figures

LOST_ANSWERS = 5
SILENT = Silent()
# Largest exponent of a perplexity, since e^x of a larger one overflows.
_MOST_NATS = 700.0


def evaluate(
    model: str | None = None,
    adapter: str | Path | None = None,
    suite: str | None = None,
    *,
    limit: int | None = None,
    adapter_when: AdapterWhen = "always",
    listener: Listener = SILENT,
) -> Evaluation:
    """Ask `model` the questions of a suite, and again with `adapter` on it; say how much of its ability is left.

    model: nano, a folder, or a hub id; without it the base that the adapter was trained on, or nano. adapter: an
    adapter's folder, or a run's. suite: nano, general, or a suite file (docs/measuring.md); by default what suits the
    model. limit: the most questions of each task, for a quick
    look. adapter_when: `auto` counts the base's answer where the adapter's switch leaves a prompt to it. The base's
    answers, and those of the base rounded to 8 bits, are kept in the cache folder, so it is asked once.

    Raises: InputError for a wrong argument, or when the base is near chance on every task, so that there is nothing
    that the adapter could have lost.
    """
    folder = None if adapter is None else Path(adapter)
    model = base_of(folder, model)
    session = open_session(model, folder, adapter_when=adapter_when)
    loaded, sight = session.loaded, None if session.tools.eyes is None else session.tools.eyes.sight
    encoder = ChatEncoder(loaded.tokenizer, session.system_prompt, sight)
    named = suite or default_suite(loaded.path)
    tasks = read_suite(named, limit)
    with adapter_disabled(loaded.model):
        base = measure_suite(loaded, encoder, tasks, listener, tr("the base"), cache_folder())
    if session.adapter is None:
        return evaluation_of(base, None, None, suite=named, model=model)
    counts = bool(well_above_chance(base.tasks)) or not any(map(shows_pictures, tasks))
    if counts:
        _say_what_counts(base, listener)
    else:
        listener.notice(tr("the base is at chance on every task: the suite says what was learnt, not what was kept"))
    tuned = _tuned(session, encoder, tasks, base, listener)
    kept = retention(base.tasks, tuned.tasks) if counts and base.tasks else None
    floor = None if kept is None else noise_floor(loaded, encoder, tasks, base, listener)
    found = evaluation_of(base, tuned, kept, suite=named, model=model, adapter=str(session.adapter))
    return replace(found, **left_by_noise(floor))


def _tuned(
    session: Session, encoder: ChatEncoder, tasks: Sequence[Task], base: SuiteResult, listener: Listener
) -> SuiteResult:
    """The results of the answers that a user of the tuned model gets, where the base or a switch may answer, too."""
    pictured = [task for task in tasks if shows_pictures(task)]
    asked = pictured if session.for_pictures else tasks
    tuned = measure_suite(session.loaded, encoder, asked, listener, tr("fine-tuned model"))
    if session.for_pictures:
        listener.notice(tr("the adapter answers requests with pictures only: all others are answered by the base"))
        return _beside(base, tuned)
    if session.switch is None:
        return tuned
    # A switch decides about prompts of text.
    names = {task.name for task in pictured}
    seen = SuiteResult(tuple(task for task in tuned.tasks if task.name in names), {})
    return _beside(switched(base, tuned, session.switch, session.loaded, encoder), seen)


def switched(
    base: SuiteResult, tuned: SuiteResult, switch: Switch, loaded: LoadedModel, encoder: ChatEncoder
) -> SuiteResult:
    """The results where `switch` decides for each prompt whether the tuned model or the base answers.

    Likelihoods of texts are the tuned model's, since a switch decides about prompts only.
    """

    pairs = [
        list(zip(before.answers, after.answers, strict=True))
        for before, after in zip(base.tasks, tuned.tasks, strict=True)
    ]
    # Where both answer the same, it does not matter which of them does.
    asked = list(dict.fromkeys(after.prompt for task in pairs for before, after in task if before != after))
    ids = [encoder.prompt_ids([Message("user", prompt)]) for prompt in asked]
    goes_on = dict(zip(asked, switch.chosen_of(loaded.model, ids), strict=True))

    def chosen(before: JudgedAnswer, after: JudgedAnswer) -> JudgedAnswer:
        return after if goes_on.get(after.prompt, True) else before

    tasks = [
        replace(after, answers=tuple(chosen(*pair) for pair in task))
        for after, task in zip(tuned.tasks, pairs, strict=True)
    ]
    return SuiteResult(tuple(tasks), tuned.nll)


def _beside(all_tasks: SuiteResult, some: SuiteResult) -> SuiteResult:
    """`all_tasks` with the results of `some` in place of its own."""
    own = {task.name: task for task in some.tasks}
    return SuiteResult(tuple(own.get(task.name, task) for task in all_tasks.tasks), all_tasks.nll | some.nll)


def note_on_card(found: Evaluation) -> None:
    """Note the retention on the card of the adapter that was evaluated. Raises: InputError, OSError."""
    figures = retention_figures(Path(found.suite).name, found)
    if found.adapter is not None and figures:
        note_retention(Path(found.adapter), figures)


def evaluation_of(
    base: SuiteResult,
    tuned: SuiteResult | None,
    kept: Retention | None,
    *,
    suite: str,
    model: str,
    adapter: str | None = None,
) -> Evaluation:
    """The document on a base and its tuned model. kept: how much of the base's ability that has left, if measured."""
    last = tuned or base
    return Evaluation(
        suite=suite,
        model=model,
        adapter=adapter,
        **retained(kept),
        base=_scores(base),
        tuned=None if tuned is None else _scores(tuned),
        probes={
            before.name: _task(before, after, kept.per_task if kept else None, counted=tuned is None)
            for before, after in zip(base.tasks, last.tasks, strict=True)
        },
        nll={name: _likelihood(value, last.nll[name]) for name, value in base.nll.items()},
        perplexity=_scores(last).perplexity,
        purity=last.purity,
    )


def retained(kept: Retention | None) -> dict[str, Any]:
    """Retention as documents hold it (`figures.Kept`), without its tasks."""
    if kept is None:
        return {"retention": None, "retention_min": None}
    return {
        "retention": kept.mean,
        "retention_min": kept.minimum,
        "retention_interval": kept.interval,
        "right_to_wrong": kept.right_to_wrong,
        "wrong_to_right": kept.wrong_to_right,
    }


def _scores(found: SuiteResult) -> ModelScores:
    nll = next(iter(found.nll.values())) if len(found.nll) == 1 else None
    return ModelScores(
        scores={task.name: task.score for task in found.tasks},
        broken={task.name: dict(Counter(one.broken for one in task.answers if one.broken)) for task in found.tasks},
        nll_per_token=nll,
        perplexity=None if nll is None else _perplexity(nll),
        purity=found.purity,
    )


def _task(
    before: TaskResult, after: TaskResult, kept: Mapping[str, TaskRetention] | None, counted: bool
) -> EvaluatedTask:
    """The document of one task. kept: the tasks that retention counts; for these, lost answers are listed.

    counted: whether it counts where retention was not measured.
    """
    scores = TaskScore(base=before.score, score=after.score, n=before.n, chance=before.chance, counted=counted)
    if kept is None:
        return EvaluatedTask(**vars(scores))
    lost = [
        LostAnswer(prompt=one.prompt, base=one.text, tuned=other.text, broken=other.broken)
        for one, other in zip(before.answers, after.answers, strict=True)
        if one.right and not other.right
    ]
    found = kept.get(before.name)
    figures = replace(scores, counted=False) if found is None else TaskScore(**vars(found))
    return EvaluatedTask(**vars(figures), lost=tuple(lost[:LOST_ANSWERS]))


def _likelihood(before: float, after: float) -> TextLikelihood:
    return TextLikelihood(base=before, score=after, perplexity=_perplexity(after))


def _perplexity(nll: float) -> float:
    """e^NLL per token of the model's own vocabulary."""
    return math.exp(min(nll, _MOST_NATS))


def _say_what_counts(base: SuiteResult, listener: Listener) -> None:
    names = counted(base.tasks) if base.tasks else []
    if len(names) < len(base.tasks):
        listener.notice(
            tr("retention counts the tasks on which this base is well above chance: {names}", names=", ".join(names))
        )
