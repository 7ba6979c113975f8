from __future__ import annotations

from pathlib import Path
from typing import Any

from mlx_loopai.config import RunConfig
from mlx_loopai.models.model_card import model_card
from mlx_loopai.training.card import card_notes, recipe
from mlx_loopai.training.monitor import Reading

READ = Reading(
    kept=0.98,
    divergence=0.013,
    spent=0.02,
    furthest="korean",
    furthest_divergence=0.0513,
    kinds={"korean": 0.0513, "sums": 0.001},
    nll={"hangul": 1.5},
    base_nll={"hangul": 1.25},
)
LAYOUT: dict[str, Any] = {"num_layers": 2, "lora_parameters": {"rank": 4, "scale": 2.0, "keys": ["self_attn.q_proj"]}}


def test_the_recipe_is_what_differs_from_the_defaults() -> None:
    config = RunConfig.model_validate({"train": {"learning_rate": 5e-3}, "penalty": {"kind": "sketch"}})
    assert recipe(config) == {"train.learning_rate": 5e-3, "penalty.kind": "sketch"}
    assert recipe(RunConfig()) == {}


def test_a_card_tells_what_was_kept_and_no_paths(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    config = RunConfig.model_validate(
        {"model": str(tmp_path / "base"), "general": str(tmp_path / "mine.jsonl"), "sources": {"a": {"path": "b.csv"}}}
    )
    losses = {"loss_first": 3.0, "loss_last": 1.25, "validation_first": None}
    notes = card_notes(config, losses, READ)
    card = model_card(LAYOUT | {"mlx_loopai": notes})
    for row in ("| base | base |", "| loss_first | 3 |", "| loss_last | 1.25 |", "| the same before, hangul | 1.25 |"):
        assert row in card.splitlines()
    assert "1 for the base | 0.98708" in card
    assert "| the same for korean, the kind of answers that moved furthest | 0.94999" in card
    assert "Not measured" not in card
    assert not any(private in card for private in (str(tmp_path), "mine.jsonl", "b.csv", "validation"))


def test_an_unwatched_run_claims_no_retention() -> None:
    notes = card_notes(RunConfig(model="OWNER/NAME"), {"loss_first": 3.0}, None)
    card = model_card(LAYOUT | {"mlx_loopai": notes})
    assert "base_model: OWNER/NAME" in card.splitlines()
    assert "Not measured" in card


def test_the_name_of_a_base_writes_no_keys_of_its_own() -> None:
    def card(base: str) -> str:
        return model_card(LAYOUT | {"mlx_loopai": {"base": base}})

    assert "base_model: Qwen/Qwen2.5-0.5B-Instruct" in card("Qwen/Qwen2.5-0.5B-Instruct").splitlines()
    for hostile in ("Qwen/Q\nlicense: mit", "Qwen/Q: {}", "Qwen/Q #", "a/b\r", "/a", "~/a"):
        head = card(hostile).split("---")[1]
        assert "base_model" not in head
        assert "license: mit" not in head
