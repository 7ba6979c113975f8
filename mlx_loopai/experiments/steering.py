"""How little a head must be damped so that a model stops slipping into scripts nobody asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlx_loopai.config import GenerationOptions
from mlx_loopai.data.samples.provoking import PROVOKING_PROMPTS
from mlx_loopai.data.tokens import ChatEncoder
from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.retention import retention
from mlx_loopai.evaluation.suite_run import SuiteResult
from mlx_loopai.evaluation.tasks import Task
from mlx_loopai.experiments.evaluate import measure_suite
from mlx_loopai.files import cache_folder
from mlx_loopai.generation.answers import write_answers
from mlx_loopai.generation.prompts import single_prompt
from mlx_loopai.generation.session import Session
from mlx_loopai.models.steering import steered_head
from mlx_loopai.models.token_bytes import bytes_of_tokens
from mlx_loopai.models.token_scripts import row_factors
from mlx_loopai.runs.listener import Listener, Silent
from mlx_loopai.text.hangul import nfc
from mlx_loopai.text.scripts import Script, script_counts

# From the mildest on. Below the last one hardly any row is left.
FACTORS = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.35, 0.2)
LEAST_REDUCTION = 0.9
LEAST_RETENTION = 0.99
_ANSWER_TOKENS = 96


@dataclass(frozen=True)
class Count:
    """Letters of the steered scripts among all letters of some answers."""

    foreign: int
    letters: int

    @property
    def per_1000(self) -> float:
        return 1000 * self.foreign / self.letters if self.letters else 0.0

    def reduction_from(self, before: Count) -> float:
        """The share of `before`'s rate that is gone; 1.0 where there was none."""
        return 1 - self.per_1000 / before.per_1000 if before.foreign else 1.0


@dataclass(frozen=True)
class Tried:
    """A factor, and what the answers to the tuning half hold with it."""

    factor: float
    count: Count


@dataclass(frozen=True)
class Tuning:
    """The mildest factor that is enough on the tuning half (None: none is), and what it does on the other half.

    tried: every factor that was measured, in its order. held_out: without and with the chosen factor.
    retention: of each suite task's score above chance, the tasks of the steered scripts' languages apart (`apart`).
    """

    scripts: tuple[str, ...]
    base: Count
    tried: tuple[Tried, ...]
    factor: float | None
    held_out: tuple[Count, Count] | None = None
    retention: float | None = None
    per_task: Mapping[str, float] | None = None
    apart: Mapping[str, float] | None = None

    @property
    def text(self) -> str | None:
        """What `convert --steer` takes."""
        return None if self.factor is None else ",".join(f"{name}={self.factor:g}" for name in self.scripts)


@dataclass(frozen=True)
class Search:
    """What is looked for: `scripts` damped until `least_reduction` of their letters are gone from answers to prompts.

    tasks: of a suite on which retention is measured; none, no measurement. `max_tokens` of each answer.
    """

    scripts: tuple[str, ...] = ("han", "kana")
    prompts: Sequence[str] = PROVOKING_PROMPTS
    tasks: Sequence[Task] = ()
    least_reduction: float = LEAST_REDUCTION
    max_tokens: int = _ANSWER_TOKENS


def tune(session: Session, search: Search, listener: Listener | None = None) -> Tuning:
    """The mildest damping of the head that is enough, by halving the list of `FACTORS`.

    Every second prompt chooses, the others measure. Answers are drawn without constraint or filter, with the usual
    temperature: the constraint would hide what the model does.
    Raises: InputError when the model writes none of the scripts, or for fewer than four prompts.
    """
    listener = listener or Silent()
    if len(search.prompts) < 4:
        raise InputError(f"{len(search.prompts)} prompts cannot be halved; give at least 4")
    chooses, measures = search.prompts[::2], search.prompts[1::2]
    tokens = _tokens(session)
    base = _count(session, chooses, search, listener, "the model's answers")
    if not base.foreign:
        raise InputError(f"the model's answers hold no {' or '.join(search.scripts)}; give prompts that provoke them")
    tried: dict[float, Count] = {}
    low, high = 0, len(FACTORS)
    while low < high:
        middle = (low + high) // 2
        factor = FACTORS[middle]
        with steered_head(session.loaded.model, _factors(tokens, search, factor, session)):
            tried[factor] = _count(session, chooses, search, listener, f"answers at {factor:g}")
        enough = tried[factor].reduction_from(base) >= search.least_reduction
        low, high = (low, middle) if enough else (middle + 1, high)
    points = tuple(Tried(factor, tried[factor]) for factor in sorted(tried, reverse=True))
    if low == len(FACTORS):
        return Tuning(search.scripts, base, points, None)
    factor = FACTORS[low]
    before = _count(session, measures, search, listener, "held-out answers")
    plain = _measured(session, search, listener, "the model", kept=True)
    with steered_head(session.loaded.model, _factors(tokens, search, factor, session)):
        after = _count(session, measures, search, listener, "held-out answers, steered")
        steered = _measured(session, search, listener, "the steered model", kept=False)
    return Tuning(search.scripts, base, points, factor, (before, after), *_retained(plain, steered))


def _tokens(session: Session) -> dict[int, bytes]:
    tokenizer = session.loaded.tokenizer
    added = set(tokenizer.added_tokens_decoder)
    words = {index: token for token, index in tokenizer.get_vocab().items() if index not in added}
    return bytes_of_tokens(words, str(session.loaded.path))


def _factors(tokens: Mapping[int, bytes], search: Search, factor: float, session: Session) -> npt.NDArray[np.float32]:
    return row_factors(tokens, dict.fromkeys(search.scripts, factor), session.loaded.shape.vocab_size)


def _count(session: Session, prompts: Sequence[str], search: Search, listener: Listener, label: str) -> Count:
    """The letters in the answers to `prompts`: of the steered scripts, and of all."""
    options = GenerationOptions(scripts="off", filter=False, max_tokens=search.max_tokens)
    requests = [
        session.request(session.prompt_ids(single_prompt(prompt)), options, row=row)
        for row, prompt in enumerate(prompts)
    ]
    listener.stage(label, len(requests))
    foreign = letters = 0
    for done, (_, answer) in enumerate(write_answers(session.loaded, requests), start=1):
        counts = script_counts(nfc(answer.text.written))
        foreign += sum(counts.get(script, 0) for script in search.scripts)
        letters += sum(count for name, count in counts.items() if Script(name).is_letter)
        listener.advance(done)
    return Count(foreign, letters)


def _measured(session: Session, search: Search, listener: Listener, label: str, kept: bool) -> SuiteResult | None:
    if not search.tasks:
        return None
    encoder = ChatEncoder(session.loaded.tokenizer, session.system_prompt)
    folder = cache_folder() if kept else None
    return measure_suite(session.loaded, encoder, search.tasks, listener, label, folder)


def _retained(
    plain: SuiteResult | None, steered: SuiteResult | None
) -> tuple[float | None, dict[str, float] | None, dict[str, float] | None]:
    """Mean retention over the other tasks, each of them, and those that ask for Chinese or Japanese apart."""
    if plain is None or steered is None:
        return None, None, None
    own = {one.name for one in plain.tasks if one.name.endswith(("_zh", "_ja"))}
    rest = retention(
        [one for one in plain.tasks if one.name not in own], [one for one in steered.tasks if one.name not in own]
    )
    apart = {one.name: one.score for one in steered.tasks if one.name in own}
    return rest.mean, {name: one.capped for name, one in rest.per_task.items()}, apart
