"""A suite run on a model, kept for a base, and two runs compared."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_loopai.data.records import Message
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation import choices, questions
from mlx_loopai.evaluation.forgetting import Retention, retention, usable
from mlx_loopai.evaluation.perplexity import nll
from mlx_loopai.evaluation.probes import ProbeResult
from mlx_loopai.evaluation.suite import Asked, Chosen, Scored, Task
from mlx_loopai.files import write_whole
from mlx_loopai.generation.engine import SamplingOptions, generate_batch
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.progress import Advance, ignore, part
from mlx_loopai.text.measures import purity

_EXAMPLES = 5


@dataclass(frozen=True)
class SuiteRun:
    """Raw results by task, judged when read: `answers` [text, finished] of questions, `picks` of choices, `nll`."""

    answers: dict[str, list[tuple[str, bool]]]
    picks: dict[str, list[int]]
    nll: dict[str, float]  # nats per supervised token

    def with_tasks_of(self, other: SuiteRun) -> SuiteRun:
        """This run and the tasks of `other`."""
        return SuiteRun(self.answers | other.answers, self.picks | other.picks, self.nll | other.nll)


def run_suite(
    loaded: LoadedModel, encoder: ChatEncoder, tasks: Sequence[Task], on_progress: Advance = ignore
) -> SuiteRun:
    """Run every task, greedily and with the script constraint off.

    `on_progress` hears how many items are done, and the task.
    """
    run = SuiteRun({}, {}, {})
    before = 0
    for task in tasks:
        show = part(on_progress, before, task.name)
        if isinstance(task, Asked):
            prompts = [encoder.prompt_ids([Message("user", item.prompt)]) for item in task.items]
            options = SamplingOptions(temperature=0.0, max_tokens=task.max_tokens)
            said = generate_batch(loaded, prompts, options, show)
            run.answers[task.name] = [(answer.text, answer.finished) for answer in said]
        elif isinstance(task, Chosen):
            run.picks[task.name] = choices.choose(loaded, task.items, show)
        else:
            rows = [encoder.encode(record) for record in task.items]
            run.nll[task.name] = nll(loaded.model, rows, on_progress=show).nll_per_token
        before += len(task.items)
    return run


def results(tasks: Sequence[Task], run: SuiteRun) -> list[ProbeResult]:
    """The judged tasks of a run, those with a likelihood alone left out."""
    return [_result(task, run) for task in tasks if not isinstance(task, Scored)]


def _result(task: Asked | Chosen, run: SuiteRun) -> ProbeResult:
    if isinstance(task, Chosen):
        picks = run.picks[task.name]
        right = tuple(pick == item.answer for pick, item in zip(picks, task.items, strict=True))
        texts = tuple(item.options[pick] for pick, item in zip(picks, task.items, strict=True))
        return ProbeResult(
            task.name, choices.chance(task.items), right, texts, (None,) * len(right), (True,) * len(right)
        )
    said = run.answers[task.name]
    verdicts = [questions.judge_answer(item, text) for item, (text, _) in zip(task.items, said, strict=True)]
    return ProbeResult(
        task.name,
        questions.constant_guess(task.items),
        tuple(verdict.right for verdict in verdicts),
        tuple(text for text, _ in said),
        tuple(verdict.broken for verdict in verdicts),
        tuple(finished for _, finished in said),
    )


def kept_run(
    loaded: LoadedModel,
    encoder: ChatEncoder,
    system_prompt: str,
    tasks: Sequence[Task],
    folder: Path,
    on_progress: Advance = ignore,
) -> SuiteRun:
    """`run_suite`, each task read from `folder` where it was run before, and kept there when it ends."""
    found, before = SuiteRun({}, {}, {}), 0
    for task in tasks:
        path = folder / cache_name(loaded, system_prompt, task)
        run = read_run(path)
        if run is None:
            run = run_suite(loaded, encoder, [task], part(on_progress, before, task.name))
            write_run(path, run)
        found, before = found.with_tasks_of(run), before + len(task.items)
    return found


def is_kept(loaded: LoadedModel, system_prompt: str, tasks: Sequence[Task], folder: Path) -> bool:
    """Whether every task can be read from `folder`."""
    return all(read_run(folder / cache_name(loaded, system_prompt, task)) is not None for task in tasks)


def cache_name(loaded: LoadedModel, system_prompt: str, task: Task) -> str:
    """The file that keeps a model's run of a task: named by all that answers depend on, not by how they are judged."""
    parts = [
        loaded.base_hash,
        str(loaded.model.model.norm.weight.dtype),
        str(mx.default_device()),
        mx.__version__,
        str(getattr(loaded.tokenizer, "chat_template", "")),
        system_prompt,
        [task.name, type(task).__name__, _inputs(task)],
    ]
    digest = hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()
    return f"suite-{digest[:32]}.json"


def _inputs(task: Task) -> list[Any]:
    if isinstance(task, Asked):
        return [task.max_tokens, [item.prompt for item in task.items]]
    if isinstance(task, Chosen):
        return [[item.prompt, *item.options] for item in task.items]
    return [[[message.role, message.content] for message in record.messages] for record in task.items]


def read_run(path: Path) -> SuiteRun | None:
    """The stored run; None when there is none or it cannot be used."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        answers = {name: [(str(text), bool(ended)) for text, ended in said] for name, said in stored["answers"].items()}
        return SuiteRun(answers, stored["picks"], stored["nll"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_run(path: Path, run: SuiteRun) -> None:
    """Keep a run. A cache that cannot be written costs time, not the result."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(run), ensure_ascii=False))


def report(
    model: str, adapter: str | None, tasks: Sequence[Task], base: SuiteRun, tuned: SuiteRun | None
) -> dict[str, Any]:
    """The JSON document of a suite: the same keys as for the nano probes, and `nll` by domain.

    Raises: InputError when a tuned model is compared and the base is well above chance on no task.
    """
    before = results(tasks, base)
    after = results(tasks, tuned) if tuned else before
    kept = _kept(before, after) if tuned and before else None
    return {
        "model": model,
        "adapter": adapter,
        "base": _summary(tasks, before),
        "tuned": _summary(tasks, after) if tuned else None,
        "retention": kept.mean if kept else None,
        "retention_min": kept.minimum if kept else None,
        "retention_interval": list(kept.interval) if kept else None,
        "right_to_wrong": kept.right_to_wrong if kept else None,
        "wrong_to_right": kept.wrong_to_right if kept else None,
        "probes": {one.name: _probe(tasks, one, two, kept) for one, two in zip(before, after, strict=True)},
        "nll": {name: _likelihood(value, (tuned or base).nll[name]) for name, value in base.nll.items()},
        "purity": _summary(tasks, after)["purity"],
    }


def _kept(before: Sequence[ProbeResult], after: Sequence[ProbeResult]) -> Retention:
    names = usable(before)
    if not names:
        scores = ", ".join(f"{one.name} {one.score:.2f} (chance {one.chance:.2f})" for one in before)
        raise InputError(f"`suite`: the base is near chance on every task: {scores}; give easier ones")
    return retention([one for one in before if one.name in names], [one for one in after if one.name in names])


def purity_of(tasks: Sequence[Task], found: Sequence[ProbeResult]) -> float | None:
    """Hangul letters / letters over the answers to Korean questions; None when the suite has none."""
    items = {task.name: task.items for task in tasks if isinstance(task, Asked)}
    korean = [
        text
        for one in found
        for item, text in zip(items.get(one.name, ()), one.answers, strict=False)
        if item.language == "ko"
    ]
    return purity("\n".join(korean)) if korean else None


def _summary(tasks: Sequence[Task], found: Sequence[ProbeResult]) -> dict[str, Any]:
    return {
        "scores": {one.name: one.score for one in found},
        "broken": {one.name: dict(Counter(why for why in one.broken if why)) for one in found},
        "purity": purity_of(tasks, found),
    }


def _probe(tasks: Sequence[Task], before: ProbeResult, after: ProbeResult, kept: Retention | None) -> dict[str, Any]:
    found: dict[str, Any] = {"base": before.score, "score": after.score, "n": before.n, "chance": before.chance}
    if kept is None:
        return found
    counted = kept.per_probe.get(before.name)
    task = next(task for task in tasks if task.name == before.name)
    prompts = [item.prompt for item in task.items if not hasattr(item, "messages")]
    places = [place for place in range(before.n) if before.right[place] and not after.right[place]]
    found["counted"] = counted is not None
    found |= asdict(counted) if counted else {}
    found["lost"] = [
        {
            "prompt": prompts[place],
            "base": before.answers[place],
            "tuned": after.answers[place],
            "broken": after.broken[place],
        }
        for place in places[:_EXAMPLES]
    ]
    return found


def _likelihood(before: float, after: float) -> dict[str, float]:
    """Nats per token of the base and the model, and its perplexity."""
    return {"base": before, "score": after, "perplexity": math.exp(min(after, 700.0))}
