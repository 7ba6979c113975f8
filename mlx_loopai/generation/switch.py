"""Decides whether an adapter answers a prompt; prompts unlike those it was trained on go to the base.

It is a linear classifier on the base's final state at the prompt's last token, fitted in seconds to prompts that a run
has anyway: those that it trains on, and general ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_loopai.data.batches import groups_by_length
from mlx_loopai.errors import InputError
from mlx_loopai.files import write_whole
from mlx_loopai.language import tr
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.models.pass_sizes import SCORED_TOKENS
from mlx_loopai.models.prompt_cache import Prefix

SWITCH_FILE = "adapter_switch.json"
_FORM = 1
_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
_FOLDS = 5
_NEWTON_STEPS = 50
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Switch:
    """score = weights . unit(state - centre) + bias, in log-odds; the adapter is on from `threshold` up.

    centre, weights: (D,). accuracy: share of held-out prompts decided correctly in cross-validation, averaged over both
    kinds. prompts: how many of each kind it was fitted to (for the adapter, for the base).
    """

    centre: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    threshold: float
    accuracy: float
    prompts: tuple[int, int]

    def score(self, state: npt.NDArray[np.floating[Any]]) -> float:
        """Log-odds that the prompt with this last state (D,) is one for the adapter."""
        point = _unit(np.asarray(state, np.float64)[None] - np.array(self.centre))[0]
        return float(point @ np.array(self.weights) + self.bias)

    def chooses_adapter(self, model: nn.Module, prompt_ids: Sequence[int], read: Prefix | None = None) -> bool:
        """Whether the adapter on `model` should answer; costs one forward pass over the prompt without it.

        read: what the base has read of the prompt, which need not be read again.
        """
        if read is not None and read.fits(prompt_ids):
            state = state_after(model, prompt_ids, read)
        else:
            state = prompt_states(model, [prompt_ids])[0]
        return self.score(state) >= self.threshold

    def chosen_of(self, model: nn.Module, prompts: Sequence[Sequence[int]]) -> list[bool]:
        """`chooses_adapter` of each of `prompts`, which are read together."""
        return [self.score(state) >= self.threshold for state in prompt_states(model, prompts)] if prompts else []

    def save(self, folder: Path) -> None:
        write_whole(folder / SWITCH_FILE, json.dumps({"form": _FORM, **asdict(self)}) + "\n")

    @staticmethod
    def load(folder: Path, width: int) -> Switch:
        """The switch of an adapter folder. Raises: InputError when it has none, or one for states of another width."""
        path = folder / SWITCH_FILE
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored.pop("form") != _FORM:
                raise ValueError(tr("of a newer version"))
            listed: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()}
            found = Switch(**listed)
            sizes = {len(found.centre), len(found.weights)}
            finite = np.isfinite([*found.centre, *found.weights, found.bias, found.threshold]).all()
        except FileNotFoundError:
            raise InputError(
                tr(
                    "{folder}: holds no adapter switch ({switch_file}); use the adapter always, or train it guarded",
                    folder=folder,
                    switch_file=SWITCH_FILE,
                )
            ) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(
                tr("{path}: damaged ({error}); use the adapter always", path=path, error=" ".join(str(error).split()))
            ) from None
        if sizes != {width} or not finite:
            raise InputError(
                tr(
                    "{path}: made for another base (states of {sizes}, not {width}); use the adapter always",
                    path=path,
                    sizes=sizes,
                    width=width,
                )
            )
        return found


def prompt_states(model: nn.Module, prompts: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
    """(N, D): the base's final state at the last token of each prompt, whatever adapter `model` has."""
    lengths = [len(ids) for ids in prompts]
    groups = groups_by_length(lengths, SCORED_TOKENS)
    found: dict[int, npt.NDArray[np.float32]] = {}
    with adapter_disabled(model):
        for group in groups:
            ids = np.zeros((len(group), lengths[group[-1]]), np.int32)
            for row, index in zip(ids, group, strict=True):
                row[: lengths[index]] = prompts[index]
            last = (mx.arange(len(group)), mx.array([lengths[index] - 1 for index in group]))
            states = hidden_states(model, mx.array(ids), positions=last)
            found |= zip(group, np.array(states.astype(mx.float32)), strict=True)
    return np.stack([found[index] for index in range(len(prompts))])


def state_after(model: nn.Module, prompt_ids: Sequence[int], read: Prefix) -> npt.NDArray[np.float32]:
    """The state (D,) that `prompt_states` gives of one prompt, of which the base has read the beginning."""
    rest = mx.array(prompt_ids[len(read.tokens) :])[None]
    with adapter_disabled(model):
        states = model.model(rest, cache=read.own_cache())
        return np.array(states[0, -1].astype(mx.float32))


def fit_switch(for_adapter: npt.NDArray[np.float32], for_base: npt.NDArray[np.float32]) -> Switch | None:
    """The switch between two kinds of prompts, by their states (N, D) and (M, D); None with fewer than two of a kind.

    It is ridge logistic regression in its dual form (N + M unknowns, however wide the states), in which both kinds have
    the same weight. Strength and threshold are those with the best mean accuracy over held-out folds; of thresholds
    that are equally good, the middle one.
    """
    if min(len(for_adapter), len(for_base)) < 2:
        return None
    states = np.concatenate([for_adapter, for_base]).astype(np.float64)
    labels = np.repeat([1.0, -1.0], [len(for_adapter), len(for_base)])
    folds = _folds(labels)
    tried = []
    for strength in _STRENGTHS:
        scores = np.empty(len(labels))
        for fold in range(_FOLDS):
            held = folds == fold
            if held.any():
                scores[held] = _scores(_fit(states[~held], labels[~held], strength), states[held])
        threshold, accuracy = _best_threshold(scores, labels)
        tried.append((accuracy, strength, threshold))
    # The strongest ridge among the equally good: it trusts the few prompts least.
    accuracy, strength, threshold = max(tried)
    centre, weights, bias = _fit(states, labels, strength)
    return Switch(
        centre=tuple(centre.tolist()),
        weights=tuple(weights.tolist()),
        bias=bias,
        threshold=threshold,
        accuracy=accuracy,
        prompts=(len(for_adapter), len(for_base)),
    )


def _folds(labels: _Floats) -> npt.NDArray[np.int64]:
    """Every kind spread evenly over the folds, in its order."""
    found = np.empty(len(labels), np.int64)
    for kind in (1.0, -1.0):
        places = np.flatnonzero(labels == kind)
        found[places] = np.arange(len(places)) % min(_FOLDS, len(places))
    return found


def _fit(states: _Floats, labels: _Floats, strength: float) -> tuple[_Floats, _Floats, float]:
    """(centre, weights, bias) of the ridge logistic regression, by Newton's method in the dual.

    The weights are a combination of the points, w = X^T a. With the Gram matrix K = X X^T + 1 (the bias is one more
    coordinate), sample weights c and margins f = K a, a step solves (diag(c p (1-p)) K + strength I) a = c (y01 - p) +
    c p (1-p) f.

    Source: kernel logistic regression, Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 12.3.3.
    """
    kinds = labels > 0
    # The middle between the two kinds, not of all prompts, since one kind may have many more.
    centre = (states[kinds].mean(0) + states[~kinds].mean(0)) / 2
    points = _unit(states - centre)
    gram = points @ points.T + 1.0
    counts = np.where(kinds, 0.5 / kinds.sum(), 0.5 / (~kinds).sum())
    dual = np.zeros(len(labels))
    for _ in range(_NEWTON_STEPS):
        margins = gram @ dual
        chance = 1 / (1 + np.exp(-np.clip(margins, -30, 30)))
        curve = counts * chance * (1 - chance)
        wanted = counts * (kinds - chance) + curve * margins
        step = np.linalg.solve(curve[:, None] * gram + strength * np.eye(len(labels)), wanted) - dual
        dual = dual + step
        if np.abs(step).max() < 1e-9 * max(1.0, np.abs(dual).max()):
            break
    return centre, points.T @ dual, float(dual.sum())


def _scores(fitted: tuple[_Floats, _Floats, float], states: _Floats) -> _Floats:
    centre, weights, bias = fitted
    return _unit(states - centre) @ weights + bias


def _unit(points: _Floats) -> _Floats:
    return points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)


def _best_threshold(scores: _Floats, labels: _Floats) -> tuple[float, float]:
    """(threshold, mean accuracy of both kinds), the best on `scores`; of equals, the middle of the widest gap."""
    edges = np.unique(scores)
    middles = np.concatenate([[edges[0] - 1.0], (edges[:-1] + edges[1:]) / 2, [edges[-1] + 1.0]])
    gaps = np.concatenate([[0.0], np.diff(edges), [0.0]])
    positive, negative = np.sort(scores[labels > 0]), np.sort(scores[labels < 0])
    kept = 1 - np.searchsorted(positive, middles) / len(positive)
    refused = np.searchsorted(negative, middles) / len(negative)
    accuracy = (kept + refused) / 2
    best = np.flatnonzero(accuracy >= accuracy.max() - 1e-12)
    chosen = best[np.argmax(gaps[best])]
    return float(middles[chosen]), float(accuracy[chosen])
