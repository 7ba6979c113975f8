"""The monitor: what a reading is, what a fall below the floor does, and that a resumed run reads the same."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import yaml

from mlx_loopai.config import RunConfig, validate_config
from mlx_loopai.data.tokens import TokenRow
from mlx_loopai.errors import LoopaiError
from mlx_loopai.evaluation.perplexity import RowLosses, nll
from mlx_loopai.guards.base_states import with_base_states
from mlx_loopai.guards.budget import KindReading, distance
from mlx_loopai.guards.rehearsal import MOST_WATCHED, WATCHED_ALONE, WATCHED_ROWS, WATCHED_TOKENS
from mlx_loopai.models.load import load_tokenizer
from mlx_loopai.models.lora import adapter_disabled
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training import general_rows
from mlx_loopai.training import loop as running
from mlx_loopai.training import monitor as monitoring
from mlx_loopai.training.checkpoint import save_checkpoint
from mlx_loopai.training.general_rows import surest, watched_rows
from mlx_loopai.training.monitor import Monitor
from mlx_loopai.training.run import train
from tests.unit.conftest import Heard, row

# Rows of so many tokens are watched in their usual number.
LONG = WATCHED_TOKENS // WATCHED_ROWS
ROWS = [row(length, seed) for seed, length in enumerate((9, 14, 6, 21, 11))]


def configured(recipe: str, **forgetting: Any) -> RunConfig:
    values = yaml.safe_load(recipe)
    values["forgetting"] = {"monitor_every": 2, "budget": 0, **forgetting}
    return validate_config(values, "recipe")


def readings(folder: Path) -> list[tuple[int, float]]:
    return [
        (event["step"], event["kept"]) for event in RunDirectory(folder).read_events() if event["event"] == "monitor"
    ]


def adapter(folder: Path) -> bytes:
    return (folder / "adapter" / "adapters.safetensors").read_bytes()


def log_probabilities(model: nn.Module, ids: np.ndarray) -> np.ndarray:
    logits = np.array(model(mx.array(ids[None, :-1]))[0].astype(mx.float32), np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_a_reading_is_the_divergence_from_the_base(adapted: Callable[..., nn.Module], tiny_model_folder: Path) -> None:
    model = adapted(dropout=0.5)
    model.train()
    reading = Monitor(model, ROWS, load_tokenizer(tiny_model_folder)).read()
    assert model.training
    model.eval()
    total, tokens = 0.0, 0
    for one in ROWS:
        now = log_probabilities(model, one.ids)
        with adapter_disabled(model):
            base = log_probabilities(model, one.ids)
        apart = (np.exp(base) * (base - now)).sum(-1)
        total, tokens = total + apart[one.supervised[1:]].sum(), tokens + int(one.supervised[1:].sum())
    assert reading.divergence == pytest.approx(total / tokens, rel=1e-4)
    # Rows without a name for what they ask are one kind for each script of their answers.
    assert reading.kept == pytest.approx(math.exp(-reading.spent), rel=1e-4)


def test_a_lost_token_counts_for_no_more_than_its_loss(
    adapted: Callable[..., nn.Module], tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far its likelihood fell; the other tokens count as they are."""
    model, tokenizer = adapted(), load_tokenizer(tiny_model_folder)
    apart = np.linspace(0.0, 3.0, sum(int(one.supervised[1:].sum()) for one in ROWS), dtype=np.float32)
    left = [apart]

    def read(states: mx.array, *rest: object) -> tuple[np.ndarray, np.ndarray]:
        found, left[0] = left[0][: len(states)], left[0][len(states) :]
        return np.zeros_like(found), found

    monkeypatch.setattr(monitoring, "token_losses_and_divergences", read)
    found = Monitor(model, ROWS, tokenizer, most_of_a_token=1.5).read()
    assert found.divergence == pytest.approx(np.minimum(apart, 1.5).mean(), rel=1e-5)


def test_kinds_are_read_apart(adapted: Callable[..., nn.Module], tiny_model_folder: Path) -> None:
    """A kind's KL is that of its rows alone, whatever batches they share with others."""
    model, tokenizer = adapted(), load_tokenizer(tiny_model_folder)
    named = [
        replace(one, ability=name) for one, name in zip(ROWS, ("sums", "code", "sums", "code", "code"), strict=True)
    ]
    found = Monitor(model, named, tokenizer).read()
    alone = {
        name: Monitor(model, [one for one in named if one.ability == name], tokenizer).read().divergence
        for name in ("sums", "code")
    }
    assert found.kinds == pytest.approx(alone, rel=1e-4)
    read = {name: KindReading(alone[name] * n, n, rows) for name, n, rows in _sizes(named)}
    assert found.spent == pytest.approx(distance(read).spent, rel=1e-4)
    assert found.furthest == max(alone, key=lambda name: alone[name])
    assert found.furthest_divergence == found.kinds[found.furthest]


def _sizes(rows: list[TokenRow]) -> list[tuple[str, int, int]]:
    """(name, tokens, rows) of every ability."""
    names = sorted({one.ability for one in rows})
    kinds = [(name, [one for one in rows if one.ability == name]) for name in names]
    return [(name, sum(int(one.supervised[1:].sum()) for one in kind), len(kind)) for name, kind in kinds]


def test_a_reading_is_the_same_however_its_rows_are_batched(
    adapted: Callable[..., nn.Module], tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long row is alone in its batch, so that a reading needs no more memory than any other scoring."""
    model, tokenizer = adapted(), load_tokenizer(tiny_model_folder)
    together = Monitor(model, ROWS, tokenizer).read()
    monkeypatch.setattr(monitoring, "SCORED_TOKENS", 16)
    apart = Monitor(model, ROWS, tokenizer)
    assert all(batch.ids.size <= 16 or len(batch.ids) == 1 for batch in (one.batch for one in apart._batches))
    assert apart.read().divergence == pytest.approx(together.divergence, rel=1e-4)


def test_losses_by_script_are_those_of_the_rows(adapted: Callable[..., nn.Module], tiny_model_folder: Path) -> None:
    model = adapted()
    model.eval()
    one = ROWS[3]
    reading = Monitor(model, [one], load_tokenizer(tiny_model_folder)).read()
    (found,) = reading.nll.values()
    assert found == pytest.approx(nll(model, [one]).nll_per_token, rel=1e-5)
    with adapter_disabled(model):
        assert next(iter(reading.base_nll.values())) == pytest.approx(nll(model, [one]).nll_per_token, rel=1e-5)
        untouched = Monitor(model, [one], load_tokenizer(tiny_model_folder)).read()
    assert untouched.kept == pytest.approx(1.0, abs=1e-6)


def watching(monkeypatch: pytest.MonkeyPatch, unsure: Callable[[TokenRow], float] = lambda row: 0.0) -> Any:
    """A context whose base has a mean loss of `unsure` nats a token on a row's answer."""

    def losses(model: object, rows: list[TokenRow], on_progress: object) -> RowLosses:
        tokens = np.array([int(one.supervised[1:].sum()) for one in rows])
        return RowLosses(tokens * np.array([unsure(one) for one in rows]), tokens)

    monkeypatch.setattr(general_rows, "nll", losses)
    read = SimpleNamespace(decode=lambda ids: "말")
    loaded = SimpleNamespace(tokenizer=read, model=None)
    return SimpleNamespace(config=SimpleNamespace(watches=True), loaded=loaded, listener=Heard())


def test_watched_rows_come_evenly_from_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"sums": 60, "code": 40, "korean": 20, "chinese": 3}
    rows = [
        replace(row(LONG, seed), ability=name)
        for seed, name in enumerate(name for name, n in counts.items() for _ in range(n))
    ]
    context = watching(monkeypatch)
    watched, rest = watched_rows(context, rows)
    assert len(watched) == len(rows) // 4
    assert sorted(Counter(one.ability for one in watched).values()) == [2, 9, 9, 10]
    assert {id(one) for one in watched}.isdisjoint(id(one) for one in rest)
    assert len(watched) + len(rest) == len(rows)
    again, _ = watched_rows(context, rows[::-1])
    assert [id(one) for one in again] == [id(one) for one in watched]


def test_what_the_base_only_guesses_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each kind the surer half, however sure the base is of other kinds; content decides between equals."""
    rows = [replace(row(LONG, seed), ability=("sums", "korean")[seed % 2]) for seed in range(4 * WATCHED_ROWS)]
    unsure = {id(one): (seed % 8 == 0) * 0.3 + (seed % 2) * 1.5 + seed * 1e-5 for seed, one in enumerate(rows)}
    watched, rest = watched_rows(watching(monkeypatch, lambda one: unsure[id(one)]), rows)
    assert len(watched) == WATCHED_ROWS
    assert Counter(one.ability for one in watched) == {"sums": WATCHED_ROWS // 2, "korean": WATCHED_ROWS // 2}
    assert max(unsure[id(one)] for one in watched if one.ability == "sums") < 0.3
    assert sum(unsure[id(one)] >= 0.3 for one in rest if one.ability == "sums") == len(rows) // 8
    first, _ = watched_rows(watching(monkeypatch, lambda one: round(unsure[id(one)], 2)), rows)
    assert [id(one) for one in first] == [id(one) for one in watched]


def test_more_short_rows_are_watched_than_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    for length, most in ((9, MOST_WATCHED), (WATCHED_TOKENS // 40, 40), (100, WATCHED_ROWS)):
        rows = [row(length, seed) for seed in range(4 * MOST_WATCHED)]
        assert len(watched_rows(watching(monkeypatch), rows)[0]) == most


def test_sureness_is_the_likelihood_of_the_answer(
    adapted: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = adapted()
    rows = [replace(row(5 + seed % 7, seed), origin=str(seed)) for seed in range(2 * WATCHED_ROWS)]
    context = watching(monkeypatch)
    monkeypatch.undo()
    context.loaded.model = model
    with adapter_disabled(model):
        found = nll(model, rows)
        watched = surest(context.loaded, rows, WATCHED_ROWS, context.listener)
        carried = [*with_base_states(model, rows, tmp_path)]
        again = surest(context.loaded, carried, WATCHED_ROWS, context.listener)
    assert [one.origin for one in again] == [one.origin for one in watched]
    mean = np.round(found.nll / found.tokens, 2)
    chosen = {id(one) for one in watched}
    assert max(mean[place] for place, one in enumerate(rows) if id(one) in chosen) <= np.sort(mean)[WATCHED_ROWS]


def test_an_ability_is_read_on_wordings_that_are_not_rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it has enough rows that are only watched, no other is read, and none of them is rehearsed."""
    rows = [replace(row(LONG, seed), ability=("sums", "korean_writing")[seed % 2]) for seed in range(120)]
    alone = [
        replace(row(LONG, 200 + seed), ability="korean_writing", origin=f"{WATCHED_ALONE}{seed}") for seed in range(40)
    ]
    watched, rest = watched_rows(watching(monkeypatch), [*rows, *alone])
    assert Counter(one.ability for one in watched) == {"sums": WATCHED_ROWS // 2, "korean_writing": WATCHED_ROWS // 2}
    written = [one for one in watched if one.ability == "korean_writing"]
    assert all(one.origin.startswith(WATCHED_ALONE) for one in written)
    assert not any(one.origin.startswith(WATCHED_ALONE) for one in rest)
    assert len(rest) == len(rows) - WATCHED_ROWS // 2


def test_one_named_row_among_others_is_no_kind_of_its_own(
    adapted: Callable[..., nn.Module], tiny_model_folder: Path
) -> None:
    """A prompt of somebody's own that is also an embedded one: its answer alone would steer the run."""
    tokenizer = load_tokenizer(tiny_model_folder)
    plain = Monitor(adapted(), ROWS, tokenizer).read()
    named = Monitor(adapted(), [replace(ROWS[0], ability="english"), *ROWS[1:]], tokenizer).read()
    assert named.kinds == plain.kinds
    assert "english" not in named.kinds


@pytest.fixture(scope="module")
def warned(recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is only warned, read every second step."""
    out = tmp_path_factory.mktemp("warned") / "run"
    heard = Heard()
    train(configured(recipe, kept_floor=1.0), out, heard)
    assert any("below 1" in notice for notice in heard.notices)
    return out


def test_a_warned_run_goes_on_to_its_end(warned: Path) -> None:
    steps = [step for step, _ in readings(warned)]
    assert steps[-1] == 14
    assert {2, 4, 6, 8, 10, 12, 14} <= set(steps)
    assert readings(warned)[-1][1] < readings(warned)[0][1]


def test_rollback_ends_with_the_last_checkpoint_above_the_floor(
    recipe: str, warned: Path, tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = readings(warned)
    fall = next(n for n in range(2, len(found)) if found[n][1] < min(kept for _, kept in found[:n]))
    floor = (found[fall][1] + min(kept for _, kept in found[:fall])) / 2
    config = configured(recipe, kept_floor=floor, on_floor="rollback")
    out, last = tmp_path / "run", found[fall - 1][0]

    class Killed(BaseException):
        pass

    def killed(folder: Path, *rest: Any) -> Path:
        path = save_checkpoint(folder, *rest)
        if path.name == f"step-{found[0][0]:06d}":
            raise Killed
        return path

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(running, "save_checkpoint", killed)
        train(config, out, heard)
    summary = train(config, out, heard, resume=True)
    assert summary.steps == found[fall][0]
    # Bit for bit what the run that was not stopped read.
    assert readings(out) == found[: fall + 1]
    assert f"back to step {last}" in heard.notices[-1]
    kept = mx.load(str(out / "checkpoints" / f"step-{last:06d}" / "arrays.safetensors"))
    result = mx.load(str(out / "adapter" / "adapters.safetensors"))
    assert all(np.array_equal(kept[f"adapter.{name}"], array) for name, array in result.items())
    before = adapter(out)
    train(config, out, heard, resume=True)
    assert adapter(out) == before


def test_a_fall_at_the_first_reading_is_an_error(recipe: str, tmp_path: Path, heard: Heard) -> None:
    with pytest.raises(LoopaiError, match="at the first reading; lower train.learning_rate"):
        train(configured(recipe, kept_floor=1.0, on_floor="rollback"), tmp_path / "run", heard)
    assert not (tmp_path / "run" / "adapter").exists()


def test_stop_keeps_what_it_has(recipe: str, tmp_path: Path, heard: Heard) -> None:
    summary = train(configured(recipe, kept_floor=1.0, on_floor="stop"), tmp_path / "run", heard)
    assert summary.steps == 2
    assert (tmp_path / "run" / "adapter").exists()
