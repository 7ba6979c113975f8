"""Adapters of ranks 4, 8 and 16, which could not be merged once: trained on nano, merged by the command, compared."""

from __future__ import annotations

import json
from pathlib import Path

import mlx_loopai  # noqa: F401

# isort: split
import mlx.core as mx
import numpy as np
import pytest

from mlx_loopai.cli.main import main
from mlx_loopai.models.adapter_folder import read_adapter
from mlx_loopai.models.adapters import load_adapter
from mlx_loopai.models.load import load_model

RANKS = (4, 8, 16)
PROMPTS = ["첫눈이 오는 날을 그려 주세요.", "바다에 대해 말해 주세요.", "짧은 이야기를 써 주세요."]
ANSWER = "창밖이 하얗게 바뀌었다. 아이는 장갑도 없이 마당으로 뛰어나갔다."


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("trained")
    rows = [json.dumps({"prompt": prompt, "completion": ANSWER}, ensure_ascii=False) for prompt in PROMPTS]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for rank in RANKS:
        settings = [f"lora.rank={rank}", f"train.seed={rank}", "train.learning_rate=5e-3", "train.warmup=0"]
        settings += ["train.max_steps=2", "train.rows_per_step=3"]
        options = [part for setting in settings for part in ("--set", setting)]
        out = str(folder / f"rank{rank}")
        assert main(["train", "--data", str(folder / "rows.jsonl"), "--out", out, *options, "--quiet", "--plain"]) == 0
    return [folder / f"rank{rank}" / "adapter" for rank in RANKS]


def test_cat_gives_the_logits_of_the_summed_updates(adapters: list[Path], tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    assert main(["adapters", "merge", *map(str, adapters), "--method", "cat", "--out", str(merged), "--quiet"]) == 0
    assert read_adapter(merged).rank == sum(RANKS)
    loaded = load_model("nano", "fp32")
    ids = mx.array([loaded.tokenizer.encode(PROMPTS[0] + ANSWER)])
    base = np.array(loaded.model(ids))
    modules = dict(loaded.model.named_modules())
    updates = [read_adapter(folder) for folder in adapters]
    for name in updates[0].factors:
        parts = [(one.scale, *(np.array(factor, np.float64) for factor in one.factors[name])) for one in updates]
        total = sum(scale * a @ b for scale, a, b in parts)
        modules[name].weight = mx.array((np.array(modules[name].weight) + total.T).astype(np.float32))
    wanted = np.array(loaded.model(ids))
    assert np.abs(wanted - base).max() > 0.1
    fresh = load_model("nano", "fp32").model
    load_adapter(fresh, merged)
    found = np.array(fresh(ids))
    assert np.abs(found - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max())


def test_the_card_holds_base_recipe_and_figures(adapters: list[Path]) -> None:
    card = (adapters[0] / "README.md").read_text(encoding="utf-8")
    for row in ("| base | nano |", "| train.learning_rate | 0.005 |", "| train.max_steps | 2 |", "| loss_last |"):
        assert row in card
    assert "Not measured" in card
