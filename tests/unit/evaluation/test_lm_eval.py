"""The bridge to lm-eval: its tasks run by mlx-lm in a process of their own, here with a harness of a few lines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_loopai.cli.main import main
from mlx_loopai.config import LoraOptions
from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.evaluation import lm_eval
from mlx_loopai.evaluation.lm_eval import LmEval, evaluate, kept_scores
from mlx_loopai.models.adapters import save_adapter
from mlx_loopai.models.load import hash_base, load_model
from mlx_loopai.models.lora import apply_lora

# What mlx-lm's bridge asks of the harness, and one task of two questions on the model's likelihoods.
HARNESS = """
__version__ = "0.0"


def simple_evaluate(model, tasks, limit, **options):
    if tasks != ["pick"]:
        raise ValueError(f"no task {tasks}")
    questions = [("2 + 2 =", (" 4", " 5")), ("3 + 3 =", (" 6", " 7"))][:limit]
    asked = [Asked((question, option)) for question, options_ in questions for option in options_]
    scores = [score for score, _ in model.loglikelihood(asked)]
    return {"results": {"pick": {"alias": "pick", "nll,none": -sum(scores) / len(scores), "items,none": len(questions)}}}


class Asked:
    def __init__(self, args):
        self.args = args
"""


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `lm_eval` that this process and its children find."""
    package = tmp_path / "harness" / "lm_eval"
    (package / "api").mkdir(parents=True)
    (package / "__init__.py").write_text(HARNESS, encoding="utf-8")
    (package / "api" / "__init__.py").touch()
    (package / "api" / "model.py").write_text("class LM:\n    pass\n", encoding="utf-8")
    registry = "def register_model(name):\n    return lambda model: model\n"
    (package / "api" / "registry.py").write_text(registry, encoding="utf-8")
    metadata = tmp_path / "harness" / "lm_eval-0.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: lm_eval\nVersion: 0.0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package.parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("MLX_LOOPAI_CACHE", str(tmp_path / "cache"))
    return package


def test_a_task_is_scored_by_mlx_lm_and_kept(
    harness: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = LmEval.of("lm-eval:pick", limit=1)
    scores = kept_scores(asked, tiny_model_folder, "hash")
    assert scores["pick"]["items,none"] == 1
    assert 1 < scores["pick"]["nll,none"] < 40
    monkeypatch.setattr(lm_eval, "evaluate", None)
    assert kept_scores(asked, tiny_model_folder, "hash") == scores


def test_what_lm_eval_says_when_it_fails_is_passed_on(harness: Path, tiny_model_folder: Path) -> None:
    with pytest.raises(
        LoopaiError, match=r"lm-eval nothing: ended with status 1: .*no task \['nothing'\].*from the hub"
    ):
        evaluate(LmEval.of("lm-eval:nothing"), tiny_model_folder)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed; .* -m pip install 'mlx-loopai\[lm-eval\]'"):
        LmEval.of("lm-eval:arc_easy")
    with pytest.raises(InputError, match="names no task"):
        LmEval.of("lm-eval: ,")


def test_the_command_shows_base_and_tuned(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Path] = []

    def scores(suite: LmEval, model: Path, *_: Any) -> lm_eval.Scores:
        asked.append(model)
        assert (model / "config.json").exists()
        return {"pick": {"acc,none": 0.5 + 0.25 * len(asked)}}

    monkeypatch.setattr(lm_eval, "evaluate", scores)
    monkeypatch.setattr(lm_eval, "kept_scores", scores)
    monkeypatch.setattr(lm_eval.importlib.util, "find_spec", lambda name: object())
    run = _adapter(tiny_model_folder, tmp_path / "adapter")
    model = ["--model", str(tiny_model_folder), "--adapter", str(run)]
    assert main(["evaluate", *model, "--suite", "lm-eval:pick", "--json", "--quiet"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["base"], document["tuned"]) == ({"pick": {"acc,none": 0.75}}, {"pick": {"acc,none": 1.0}})
    assert asked[0] == tiny_model_folder
    assert not asked[1].exists()


def _adapter(base: Path, folder: Path) -> Path:
    model, options = load_model(str(base), "fp32").model, LoraOptions(rank=2)
    for layer in apply_lora(model, options, seed=0).values():
        layer.lora_b = 0.05 * mx.random.normal(layer.lora_b.shape)
    save_adapter(folder, model, options, hash_base(base))
    return folder
