"""The result document of `evaluate`: a base's scores, and how much of them is left with an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from mlx_loopai.errors import InputError
from mlx_loopai.evaluation.lm_eval import PREFIX as LM_EVAL
from mlx_loopai.language import tr
from mlx_loopai.runs.documents.document import Document, Figure, Part
from mlx_loopai.runs.documents.figures import Kept, TaskScore

EVALUATION_NAME = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class LostAnswer(Part):
    """An answer that the base had right and the tuned model has wrong; `broken`: what is wrong with its form."""

    prompt: str
    base: str
    tuned: str
    broken: str | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluatedTask(TaskScore):
    """`lost`: the first answers that were lost, to look at."""

    lost: tuple[LostAnswer, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModelScores(Part):
    """One model. `scores`: accuracy by task; `broken`: by task, how many answers are malformed in which way.

    `nll_per_token` (nats) and `perplexity` are of the suite's text; None where it has none or more than one.
    """

    scores: Mapping[str, Figure] = field(default_factory=dict)
    broken: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    nll_per_token: Figure = None
    perplexity: Figure = None
    purity: Figure = None


@dataclass(frozen=True, kw_only=True)
class TextLikelihood(Part):
    """Nats per token of one text before (`base`) and after (`score`), and the perplexity after."""

    base: Figure
    score: Figure
    perplexity: Figure


@dataclass(frozen=True, kw_only=True)
class Evaluation(Document, Kept):
    """A base and, if there is an adapter, the tuned model on the same suite; retention is None without an adapter.

    probes, purity and perplexity are those of the tuned model, or without one of the base.
    """

    suite: str = ""
    model: str = ""
    adapter: str | None = None
    base: ModelScores = field(default_factory=ModelScores)
    tuned: ModelScores | None = None
    probes: Mapping[str, EvaluatedTask] = field(default_factory=dict)
    nll: Mapping[str, TextLikelihood] = field(default_factory=dict)
    perplexity: Figure = None

    @classmethod
    def from_json(cls, document: Any, place: str) -> Self:
        """The evaluation. Raises: InputError as `Document.from_json`, and for the scores of lm-eval's tasks."""
        if isinstance(document, Mapping) and str(document.get("suite")).startswith(LM_EVAL):
            raise InputError(
                tr(
                    "{place}: holds scores of lm-eval's tasks, which have no single answers and so no retention; "
                    "evaluate with another `suite`",
                    place=place,
                )
            )
        return super().from_json(document, place)
