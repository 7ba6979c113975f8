"""A run's adapter switch takes the base's states of prompts from the rows that it rehearses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mlx_loopai.data.tokens import REHEARSAL
from mlx_loopai.generation.switch import prompt_states
from mlx_loopai.guards.base_states import with_base_states
from mlx_loopai.models.load import load_model
from mlx_loopai.training.switching import _known_states
from tests.unit.conftest import row


def test_the_state_before_an_answer_is_that_of_its_prompt(tiny_model_folder: Path, tmp_path: Path) -> None:
    model = load_model(str(tiny_model_folder), "fp32").model
    rows = [replace(row(9 + prompt, prompt, prompt), category=REHEARSAL) for prompt in (2, 5, 8)]
    known = _known_states(with_base_states(model, rows, tmp_path))
    prompts = [one.ids[:prompt].tolist() for one, prompt in zip(rows, (2, 5, 8), strict=True)]
    assert list(known) == list(map(tuple, prompts))
    found = np.stack([known[tuple(prompt)] for prompt in prompts])
    np.testing.assert_allclose(found, prompt_states(model, prompts), rtol=1e-4, atol=1e-5)


def test_rows_without_states_tell_nothing() -> None:
    assert _known_states([row(9)]) == {}
