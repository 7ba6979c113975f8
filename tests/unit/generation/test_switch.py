"""The switch tells prompts for the adapter from prompts for the base, and is kept with the adapter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.config import GenerationOptions
from mlx_loopai.errors import InputError
from mlx_loopai.generation.answers import write_answers
from mlx_loopai.generation.engine import stream
from mlx_loopai.generation.session import Session, open_session
from mlx_loopai.generation.switch import SWITCH_FILE, Switch, _fit, fit_switch, prompt_states, state_after
from mlx_loopai.models.load import load_model
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.models.prompt_cache import compute_prefix


def clouds(n: int, m: int, apart: float, width: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two clouds of points around centres that are `apart`."""
    drawn = np.random.default_rng(seed)
    centre = drawn.normal(size=width)
    shift = drawn.normal(size=width)
    shift *= apart / np.linalg.norm(shift)
    noise = drawn.normal(size=(n + m, width))
    return (centre + shift + noise[:n]).astype(np.float32), (centre + noise[n:]).astype(np.float32)


def fitted(n: int = 20, m: int = 60, apart: float = 12.0) -> Switch:
    found = fit_switch(*clouds(n, m, apart))
    assert found is not None
    return found


def test_new_prompts_of_both_kinds_are_told_apart() -> None:
    switch = fitted()
    yes, no = (part[20:] for part in clouds(40, 60, 12.0))
    unseen_yes, unseen_no = clouds(40, 60, 12.0)[0][20:], clouds(20, 80, 12.0)[1][60:]
    assert np.mean([switch.score(state) >= switch.threshold for state in unseen_yes]) >= 0.95
    assert np.mean([switch.score(state) < switch.threshold for state in unseen_no]) >= 0.95
    assert switch.accuracy >= 0.95
    assert len(yes)
    assert len(no)


def test_kinds_that_are_the_same_are_not_told_apart() -> None:
    assert fitted(30, 30, 0.0).accuracy <= 0.75


def test_the_fit_is_the_minimum_of_the_ridge_logistic_loss() -> None:
    """Against the loss itself, by its numerical gradient."""
    yes, no = clouds(6, 9, 3.0, width=5)
    states, labels = np.concatenate([yes, no]).astype(np.float64), np.repeat([1.0, -1.0], [6, 9])
    strength = 0.05
    centre, weights, bias = _fit(states, labels, strength)
    points = states - centre
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    counts = np.where(labels > 0, 0.5 / 6, 0.5 / 9)

    def loss(values: np.ndarray) -> float:
        margins = points @ values[:-1] + values[-1]
        return float((counts * np.log1p(np.exp(-labels * margins))).sum() + strength / 2 * (values**2).sum())

    at = np.append(weights, bias)
    slopes = [(loss(at + step) - loss(at - step)) / 2e-5 for step in 1e-5 * np.eye(len(at))]
    assert np.abs(slopes).max() < 1e-7


@given(st.integers(2, 9), st.integers(2, 30), st.integers(0, 99))
def test_any_two_sets_of_prompts_give_a_finite_switch(n: int, m: int, seed: int) -> None:
    found = fit_switch(*clouds(n, m, 2.0, seed=seed))
    assert found is not None
    assert np.isfinite([*found.weights, found.bias, found.threshold]).all()
    assert 0.5 <= found.accuracy <= 1.0


def test_one_prompt_is_not_enough() -> None:
    assert fit_switch(*clouds(1, 30, 5.0)) is None


def test_equal_prompts_do_not_break_it() -> None:
    same = np.ones((3, 4), np.float32)
    found = fit_switch(same, np.concatenate([same, -same]))
    assert found is not None
    assert np.isfinite(found.bias)


def test_it_is_kept_in_the_adapter_folder(tmp_path: Path) -> None:
    switch = fitted()
    switch.save(tmp_path)
    assert Switch.load(tmp_path, 12) == switch
    with pytest.raises(InputError, match="another base"):
        Switch.load(tmp_path, 13)


@pytest.mark.parametrize("damage", ["", "{}", '{"form": 2}', "[1]"])
def test_a_damaged_switch_is_refused(tmp_path: Path, damage: str) -> None:
    (tmp_path / SWITCH_FILE).write_text(damage, encoding="utf-8")
    with pytest.raises(InputError, match="damaged"):
        Switch.load(tmp_path, 12)


def test_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    fitted().save(tmp_path)
    stored = json.loads((tmp_path / SWITCH_FILE).read_text(encoding="utf-8"))
    stored["bias"] = float("nan")
    (tmp_path / SWITCH_FILE).write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(InputError, match="another base"):
        Switch.load(tmp_path, 12)


def test_an_adapter_without_a_switch_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no adapter switch"):
        Switch.load(tmp_path, 12)


def test_states_are_the_bases_whatever_the_adapter(adapted, tiny_model_folder: Path) -> None:  # type: ignore[no-untyped-def]
    prompts = [[5, 6, 7], [8, 9]]
    base = prompt_states(load_model(str(tiny_model_folder), "fp32").model, prompts)
    np.testing.assert_array_equal(prompt_states(adapted(), prompts), base)


def test_prompts_that_are_read_together_have_the_states_of_each_alone(adapted) -> None:  # type: ignore[no-untyped-def]
    model, prompts = adapted(), [[5, 6, 7], [8, 9], [5, 6, 7, 8, 9, 10, 11], [8, 9]]
    together = prompt_states(model, prompts)
    alone = np.concatenate([prompt_states(model, [ids]) for ids in prompts])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    switch = replace(fitted(5, 5, 3.0), centre=(0.0,) * together.shape[1], weights=tuple(together[0].tolist()))
    found = switch.chosen_of(model, prompts)
    assert found == [switch.chooses_adapter(model, ids) for ids in prompts]
    assert switch.chosen_of(model, []) == []


def test_a_state_is_the_same_from_where_the_base_has_read(adapted) -> None:  # type: ignore[no-untyped-def]
    model, ids = adapted(), [5, 6, 7, 8, 9]
    with adapter_disabled(model):
        read = compute_prefix(model, ids[:3])
    whole = prompt_states(model, [ids])[0]
    np.testing.assert_allclose(state_after(model, ids, read), whole, rtol=1e-4, atol=1e-5)
    score = fitted(5, 5, 3.0)
    switch = replace(score, centre=(0.0,) * len(whole), weights=tuple(whole.tolist()), bias=0.0)
    for threshold, chosen in ((-1e9, True), (1e9, False)):
        assert replace(switch, threshold=threshold).chooses_adapter(model, ids, read) is chosen


class _Chooses:
    """A switch that leaves prompts of even length to the base."""

    def chooses_adapter(self, model: object, prompt_ids: Sequence[int], read: object = None) -> bool:
        return len(prompt_ids) % 2 == 1


def test_the_base_answers_what_the_switch_leaves_to_it(adapted, tiny_model_folder: Path) -> None:  # type: ignore[no-untyped-def]
    loaded = load_model(str(tiny_model_folder), "fp32")
    tuned = replace(loaded, model=adapted())
    session = Session(loaded=tuned, system_prompt="", adapter=tiny_model_folder, switch=_Chooses())  # type: ignore[arg-type]
    always = replace(session, switch=None)
    base = Session(loaded=loaded, system_prompt="", adapter=None)
    options = GenerationOptions(scripts="off", temperature=0.0, max_tokens=8, filter=False)
    prompts = [[5, 6, 7], [5, 6, 7, 8], [9, 10], [11]]

    def texts(one: Session) -> list[tuple[int, ...]]:
        found = dict(write_answers(one.loaded, [one.request(ids, options) for ids in prompts]))
        return [found[place].text.tokens for place in range(len(prompts))]

    by_base, by_adapter = texts(base), texts(always)
    assert by_base != by_adapter
    assert texts(session) == [by_adapter[0], by_base[1], by_base[2], by_adapter[3]]
    streamed = [piece.token for piece in stream(tuned, session.request(prompts[1], options)) if piece.token is not None]
    assert tuple(streamed) == by_base[1]
    assert session.request(prompts[0], options).adapter
    assert not session.request(prompts[1], options).adapter
    assert not base.request(prompts[0], options).adapter


def test_auto_needs_an_adapter(tiny_model_folder: Path) -> None:
    with pytest.raises(InputError, match="no adapter to switch"):
        open_session(str(tiny_model_folder), adapter_when="auto")
