"""Whole runs on the tiny model: they learn, they can be stopped anywhere, and they refuse what does not belong."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_loopai.config import RunConfig, TrainPath
from mlx_loopai.errors import Diverged, InputError, Interrupted
from mlx_loopai.runs.directory import RunDirectory
from mlx_loopai.training import start as module
from mlx_loopai.training.checkpoint import complete_checkpoints
from mlx_loopai.training.run import train
from tests.unit.conftest import ROOT, Cli, Heard

WEIGHTS = "adapters.safetensors"


def adapter(run: Path) -> bytes:
    return (run / "adapter" / WEIGHTS).read_bytes()


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException | None = None) -> None:
    """Ctrl-C (or `error`) arrives while `step` is computed."""
    real = module.TrainStep.__call__
    done = 0

    def run(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal done
        done += 1
        if done == step:
            if error is not None:
                raise error
            signal.raise_signal(signal.SIGINT)
        return real(self, *arguments, **options)

    monkeypatch.setattr(module.TrainStep, "__call__", run)


def check_resumes_bit_for_bit(config: RunConfig, folder: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is stopped after its third step and resumed ends with the adapter of one that was not."""
    train(config, folder / "whole", heard)
    with monkeypatch.context() as patched:
        stop_after(patched, 3)
        with pytest.raises(Interrupted):
            train(config, folder / "cut", heard)
    assert train(config, folder / "cut", heard, resume=True).resumed_from is not None
    assert adapter(folder / "whole") == adapter(folder / "cut")


def test_a_run_learns_and_says_so(configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard) -> None:
    summary = train(configure(train__epochs=4, validation=""), tmp_path / "run", heard)
    assert summary.steps == 12
    assert summary.loss_last < summary.loss_first
    assert summary.supervised_tokens > 0
    assert summary.resumed_from is None
    assert summary.skipped_steps == 0
    assert 0 < summary.real_token_share <= 1
    assert ("training", 12) in heard.stages
    events = RunDirectory(tmp_path / "run").read_events()
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(1, 13))
    named = [event["event"] for event in events if event["event"] not in ("stage", "notice")]
    assert (named[0], named[-1]) == ("start", "done")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"adapter", "checkpoints", "events.jsonl", "resolved.yaml", "run.json"}


def test_the_same_run_gives_the_same_adapter(configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard) -> None:
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        train(configure(train__seed=seed, lora__dropout=0.2), tmp_path / name, heard)
    assert adapter(tmp_path / "one") == adapter(tmp_path / "same")
    assert adapter(tmp_path / "one") != adapter(tmp_path / "other")


@pytest.mark.parametrize("stopped", [(1, "eager"), (5, "eager"), (5, "compiled"), (6, "compiled")])
def test_ctrl_c_saves_and_resume_gives_the_same_adapter(
    configure: Callable[..., RunConfig],
    data_files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    heard: Heard,
    stopped: tuple[int, str],
) -> None:
    step, path = stopped
    guard = {"penalty__kind": "kronecker", "general": str(data_files["general"])}
    config = configure(
        train__epochs=2, train__path=path, lora__dropout=0.2, memory__checkpointing=True, penalty__sequences=4, **guard
    )
    handler = signal.getsignal(signal.SIGINT)
    train(config, tmp_path / "whole", heard)
    stop_after(monkeypatch, step)
    with pytest.raises(Interrupted, match="`resume`"):
        train(config, tmp_path / "run", heard)
    monkeypatch.undo()
    summary = train(config, tmp_path / "run", heard, resume=True)
    assert summary.resumed_from is not None
    assert summary.resumed_from.endswith(f"step-{step:06d}")
    assert summary.steps == 6
    assert adapter(tmp_path / "run") == adapter(tmp_path / "whole")
    # Not always the default: a shell's background jobs start with Ctrl-C ignored, and CI may be one.
    assert signal.getsignal(signal.SIGINT) is handler


def test_three_phases_stopped_by_ctrl_c_in_a_process_of_their_own(cli: Cli, unbroken: Path, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    ended = cli.stop_when(
        lambda: sum(event["event"] == "step" for event in run.read_events()) >= 7, signal.SIGINT, "--out", str(run.path)
    )
    assert ended.status == 130, ended.err
    assert "--resume continues the run" in ended.err.splitlines()[-1]
    resumed = cli.run("--out", str(run.path), "--resume", "--json", "--quiet")
    assert resumed.status == 0, resumed.err
    summary = json.loads(resumed.out)
    assert summary["steps"] == 14
    assert summary["resumed_from"]
    assert adapter(run.path) == adapter(unbroken)
    whole = next(event for event in RunDirectory(unbroken).read_events() if event["event"] == "done")
    assert (summary["loss_first"], summary["loss_last"]) == (whole["loss_first"], whole["loss_last"])
    assert summary["supervised_tokens"] == whole["supervised_tokens"]


def test_the_recipe_has_its_phases_penalty_and_dropout(unbroken: Path) -> None:
    steps = [event for event in RunDirectory(unbroken).read_events() if event["event"] == "step"]
    assert list(dict.fromkeys(event["phase"] for event in steps)) == ["대화", "creative", "domain"]
    assert any(event["penalty"] > 0 for event in steps)
    assert not any(event["skipped"] for event in steps)
    assert (unbroken / "importance.safetensors").exists()


def test_a_run_is_not_written_over(configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard) -> None:
    train(configure(), tmp_path / "run", heard)
    before = adapter(tmp_path / "run")
    with pytest.raises(InputError, match=r"holds a run; add `resume`"):
        train(configure(train__seed=5), tmp_path / "run", heard)
    assert adapter(tmp_path / "run") == before
    summary = train(configure(), tmp_path / "run", heard, resume=True)  # complete: nothing is left to do
    assert summary.steps == 3
    assert adapter(tmp_path / "run") == before


def test_other_settings_are_refused_and_listed(
    configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard
) -> None:
    train(configure(), tmp_path / "run", heard)
    with pytest.raises(InputError, match="cannot resume") as caught:
        train(configure(train__learning_rate=1e-3, lora__rank=4), tmp_path / "run", heard, resume=True)
    assert "train.learning_rate is 0.001, was 0.005" in str(caught.value)
    assert "lora.rank is 4, was 2" in str(caught.value)
    assert "train.seed" not in str(caught.value)
    assert f"lora.start={tmp_path / 'run'}" in str(caught.value)
    assert train(configure(), tmp_path / "run", heard, resume=True).steps == 3
    further = configure(train__max_steps=4, lora__start=str(tmp_path / "run"))
    assert train(further, tmp_path / "further", heard).steps == 4


def test_another_base_is_refused(
    configure: Callable[..., RunConfig], tiny_model_folder: Path, tmp_path: Path, heard: Heard
) -> None:
    base = Path(shutil.copytree(tiny_model_folder, tmp_path / "base"))
    train(configure(model=str(base)), tmp_path / "run", heard)
    weights = bytearray((base / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (base / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match="the base is another one") as caught:
        train(configure(model=str(base)), tmp_path / "run", heard, resume=True)
    assert "lora.start" not in str(caught.value)


def test_edited_data_are_refused(
    configure: Callable[..., RunConfig], data_files: dict[str, Path], tmp_path: Path, heard: Heard
) -> None:
    data = tmp_path / "own.jsonl"
    lines = data_files["tale"].read_text(encoding="utf-8").splitlines(keepends=True)
    data.write_text("".join(lines), encoding="utf-8")
    config = configure(sources={"own": {"path": str(data)}})
    train(config, tmp_path / "run", heard)
    data.write_text("".join(lines[1:]), encoding="utf-8")
    with pytest.raises(InputError, match="rows of the data files"):
        train(config, tmp_path / "run", heard, resume=True)


def test_resume_without_a_checkpoint_starts_over_and_says_so(
    configure: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: Heard
) -> None:
    train(configure(), tmp_path / "whole", heard)
    stop_after(monkeypatch, 2, RuntimeError("lost"))
    with pytest.raises(RuntimeError, match="lost"):
        train(configure(), tmp_path / "run", heard)
    monkeypatch.undo()
    summary = train(configure(), tmp_path / "run", heard, resume=True)
    assert summary.resumed_from is None
    assert any("no complete checkpoint; starting over" in notice for notice in heard.notices)
    assert adapter(tmp_path / "run") == adapter(tmp_path / "whole")
    assert train(configure(), tmp_path / "new", heard, resume=True).steps == 3


def test_a_new_try_in_the_same_folder_uses_nothing_of_the_old_one(
    configure: Callable[..., RunConfig],
    data_files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    heard: Heard,
) -> None:
    """Importance and rehearsal of a try that ended early belong to its settings, not to those of the next."""
    guarded = {"penalty__kind": "kronecker", "replay__source": "self", "replay__share": 0.3}
    guarded |= {"replay__max_prompts": 6, "replay__answer_tokens": 5, "general": str(data_files["general"])}
    stop_after(monkeypatch, 1, RuntimeError("lost"))
    with pytest.raises(RuntimeError, match="lost"):
        train(configure(**guarded, train__seed=8, lora__targets=["q_proj"]), tmp_path / "run", heard)
    monkeypatch.undo()
    assert (tmp_path / "run" / "rehearsal.jsonl").exists()
    for name in ("run", "fresh"):
        train(configure(**guarded), tmp_path / name, heard)
    assert adapter(tmp_path / "run") == adapter(tmp_path / "fresh")
    for name in ("rehearsal.jsonl", "importance.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()
    assert sum(event["event"] == "start" for event in RunDirectory(tmp_path / "run").read_events()) == 1


def test_a_penalty_without_rehearsal_is_measured_on_the_bases_own_answers(
    configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard
) -> None:
    own = {"replay__source": "self", "replay__max_prompts": 6, "replay__answer_tokens": 5}
    train(configure(penalty__kind="sketch", **own), tmp_path / "held", heard)
    train(configure(), tmp_path / "plain", heard)
    held, plain = (RunDirectory(tmp_path / name) for name in ("held", "plain"))
    assert held.importance.exists()
    rows = [
        [event["supervised_tokens"] for event in run.read_events() if event["event"] == "step"] for run in (held, plain)
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("place", ["checkpoint", "adapter"])
def test_a_full_disk_keeps_what_was_saved(
    configure: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: Heard, place: str
) -> None:
    config = configure(train__save_every=1, train__epochs=2)
    train(config, tmp_path / "whole", heard)
    real = mx.save_safetensors
    saves = 0

    def filling(path: str, *arguments: Any) -> None:
        nonlocal saves
        saves += 1
        if (place == "adapter" and path.endswith(WEIGHTS)) or (place == "checkpoint" and saves == 4):
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", path)
        real(path, *arguments)

    monkeypatch.setattr(mx, "save_safetensors", filling)
    with pytest.raises(OSError, match="No space"):
        train(config, tmp_path / "run", heard)
    monkeypatch.undo()
    kept = [path.name for path in complete_checkpoints(tmp_path / "run" / "checkpoints")]
    assert kept == (["step-000002", "step-000003"] if place == "checkpoint" else ["step-000005", "step-000006"])
    assert not (tmp_path / "run" / "adapter").exists()
    train(config, tmp_path / "run", heard, resume=True)
    assert adapter(tmp_path / "run") == adapter(tmp_path / "whole")


def test_a_full_disk_ends_the_command_with_one_line(cli: Cli, tmp_path: Path) -> None:
    code = (
        "import errno, sys, mlx_loopai, mlx.core as mx\n"
        "def full(path, *_): raise OSError(errno.ENOSPC, 'No space left on device', path)\n"
        "mx.save_safetensors = full\n"
        "from mlx_loopai.cli.main import main\n"
        "sys.exit(main())\n"
    )
    command = [sys.executable, "-c", code, "train", str(cli.recipe), "--out", str(tmp_path / "run"), "--quiet"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "No space left on device" in line
    # The same command again would be refused, since the folder has a run.
    assert "continues with --resume" in line


def test_a_run_whose_loss_is_never_finite_stops(
    configure: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: Heard
) -> None:
    monkeypatch.setattr(module, "TrainStep", type("Broken", (module.TrainStep,), {"_accumulate": _not_finite}))
    with pytest.raises(Diverged, match="non-finite"):
        train(configure(train__epochs=20), tmp_path / "run", heard)


def _not_finite(self: Any, _: Any) -> Any:
    vectors = self._vectors.join(self.model.trainable_parameters())
    return mx.array(float("nan")), mx.zeros(()), vectors


def test_a_wrong_model_folder_is_an_input_error(
    configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"config\.json"):
        train(configure(model=str(tmp_path / "empty")), tmp_path / "run", heard)
    assert not (tmp_path / "run").exists()


def test_two_runs_do_not_share_a_folder(configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard) -> None:
    with RunDirectory(tmp_path / "run").locked(), pytest.raises(InputError, match="another process"):
        train(configure(), tmp_path / "run", heard)


def test_the_best_of_the_validations_is_kept_and_training_stops_early(
    configure: Callable[..., RunConfig], data_files: dict[str, Path], tmp_path: Path, heard: Heard
) -> None:
    """At a rate that overshoots, later validations are worse: training stops, and the adapter is the best one."""
    watched = {"validation": str(data_files["talk"]), "train__validate_every": 1, "train__patience": 2}
    config = configure(**watched, train__keep_best=True, train__epochs=20, train__learning_rate=0.2, train__clip=0)
    summary = train(config, tmp_path / "run", heard)
    events = RunDirectory(tmp_path / "run").read_events()
    scores = [event["nll_per_token"] for event in events if event["event"] == "validation"]
    assert summary.steps == len(scores) < 60
    assert summary.best_step == scores.index(min(scores)) + 1 == summary.steps - 2
    assert summary.validation_last == summary.validation_best == min(scores)
    assert any("stopped early" in notice for notice in heard.notices)
    kept = {path.name for path in complete_checkpoints(tmp_path / "run" / "checkpoints")}
    assert f"step-{summary.best_step:06d}" in kept
    again = train(config, tmp_path / "run", heard, resume=True)
    assert (again.steps, again.validation_last) == (summary.steps, summary.validation_last)


@pytest.mark.parametrize("name", ["adam", "sgd", "lion", "adafactor", "muon"])
def test_every_optimizer_resumes_bit_for_bit(
    configure: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    heard: Heard,
    name: str,
    path: TrainPath,
) -> None:
    config = configure(train__optimizer=name, lora__dora=name == "lion", train__path=path)
    train(config, tmp_path / "whole", heard)
    stop_after(monkeypatch, 2)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", heard)
    monkeypatch.undo()
    train(config, tmp_path / "run", heard, resume=True)
    assert adapter(tmp_path / "run") == adapter(tmp_path / "whole")


def test_an_update_that_breaks_the_adapter_at_the_end_is_an_error(
    configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard
) -> None:
    with pytest.raises(Diverged, match=r"loss after training is .*train\.learning_rate"):
        train(configure(train__learning_rate=1e38, train__max_steps=1), tmp_path / "run", heard)
    assert not (tmp_path / "run" / "adapter").exists()


def test_a_late_input_error_leaves_nothing_that_stops_the_next_try(
    configure: Callable[..., RunConfig], tmp_path: Path, heard: Heard
) -> None:
    with pytest.raises(InputError, match="general rows"):
        train(configure(penalty__kind="kronecker"), tmp_path / "run", heard)
    assert not (tmp_path / "run").exists()
    assert train(configure(), tmp_path / "run", heard, resume=True).steps == 3


def test_steps_done_again_are_recorded_once(
    configure: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: Heard
) -> None:
    config = configure(train__save_every=2, train__epochs=2)
    stop_after(monkeypatch, 6, RuntimeError("lost"))
    with pytest.raises(RuntimeError, match="lost"):
        train(config, tmp_path / "run", heard)
    monkeypatch.undo()
    train(config, tmp_path / "run", heard, resume=True)
    events = RunDirectory(tmp_path / "run").read_events()
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(1, 7))
    assert sum(event["event"] == "start" for event in events) == 2
