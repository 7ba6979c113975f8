from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mlx_loopai.cli.main import main

QWEN25_3B = {
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "intermediate_size": 11008,
    "tie_word_embeddings": True,
}
TERMS = [
    "runtime",
    "weights",
    "adapter",
    "gradients",
    "optimizer",
    "penalty",
    "activations",
    "attention",
    "loss",
    "pictures",
    "phases",
    "cache",
    "python",
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(QWEN25_3B))
    return tmp_path


def test_json_holds_the_contract(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", str(model), "--machine", "m4-16gb", "--macos", "15", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is True
    assert found["total_bytes"] <= found["budget_bytes"] == int(0.85 * int(2 / 3 * (16 << 30)))
    assert list(found["terms"]) == TERMS
    assert sum(found["terms"].values()) == found["total_bytes"]
    assert "published runs of mlx-lm: median error" in found["calibrated_on"]
    assert found["time"] is None  # no rows are named
    names = ["budget", "micro_tokens", "chunk_rows", "checkpointing", "base_precision", "lora_layers"]
    assert [choice["name"] for choice in found["choices"]] == names
    assert all(set(choice) == {"name", "value", "reason"} for choice in found["choices"])


def test_text_is_a_table_and_a_line_per_choice(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", str(model / "config.json"), "--machine", "m4-16gb", "--macos", "26"]) == 0
    text = capsys.readouterr().out
    assert "on m4-16gb: fits" in text
    assert all(f"  {term} " in text for term in TERMS)
    assert "checkpointing = on: without it the run would need" in text


@pytest.mark.parametrize("extra", [[], ["--quiet"]])
def test_what_does_not_fit_is_itemised_and_exits_1(
    model: Path, capsys: pytest.CaptureFixture[str], extra: list[str]
) -> None:
    status = main(["plan", "--model", str(model), "--machine", "m1-8gb", "--set", "dtype=bf16", *extra])
    out, err = capsys.readouterr()
    assert status == 1
    assert "does not fit" in out
    assert re.search(r"^  weights +5\.7 GiB$", out, re.M)
    assert err.count("\n") == 1
    assert "take a 4-bit base or a smaller model" in err


def test_json_of_a_refusal_is_still_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", str(model), "--set", "memory.budget=1GiB", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["fits"] is False


def test_quiet_still_shows_the_result(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", str(model), "--machine", "m4-16gb", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert "on m4-16gb: fits" in out
    assert err == ""


def test_a_recipe_and_overrides(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = model / "recipe.yaml"
    recipe.write_text(f"model: {json.dumps(str(model))}\nlora: {{rank: 64}}\n")
    arguments = ["plan", str(recipe), "--machine", "m4-max-64gb", "--json"]
    sizes = []
    for extra in ([], ["--set", "lora.rank=8"]):
        assert main(arguments + extra) == 0
        sizes.append(json.loads(capsys.readouterr().out)["terms"]["adapter"])
    assert sizes[0] == 8 * sizes[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--machine", "m4-20gb"], "near: m4-16gb"),
        (["--macos", "14"], "'14' is not one of"),
        (["--set", "memory.budget=much"], "memory.budget: cannot read 'much'"),
        (["--set", "lora.targets=[w1]"], "qwen2 has no w1"),
        (["--set", "lora.rang=4"], "did you mean rank"),
        (["--model", "nobody/nothing-of-that-name"], "no hub model of that name is cached"),
        (["--model", "./missing"], "no such folder or config.json"),
        (["--model", "Qwen2.5-4B-shape"], "near: Qwen2.5-14B-shape"),
        (["--machine", "m4-16gb", "--probe"], "m4-16gb is not here to be measured"),
    ],
)
def test_wrong_input_is_one_line_and_exits_2(
    model: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["plan", "--model", str(model), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_a_known_name_needs_no_file(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = []
    for name in ("Qwen2.5-3B-shape", str(model)):
        assert main(["plan", "--model", name, "--machine", "m4-16gb", "--json"]) == 0
        documents.append(json.loads(capsys.readouterr().out) | {"model": ""})
    assert documents[0] == documents[1]


def test_a_probe_refines_this_and_later_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLX_LOOPAI_CACHE", str(tmp_path))
    arguments = ["plan", "--model", "nano", "--set", "train.max_tokens=16", "--set", "train.rows_per_step=2", "--json"]
    found = []
    for extra in ([], ["--probe"], []):
        assert main(arguments + extra) == 0
        found.append(json.loads(capsys.readouterr().out))
    before, probed, after = found
    assert "measured on this machine" not in before["calibrated_on"]
    assert "measured on this machine" in probed["calibrated_on"]
    assert probed == after
    assert probed["terms"]["activations"] != before["terms"]["activations"]
    # Another model is as little measured as before.
    assert main([*arguments[:2], "Qwen2.5-0.5B-shape", *arguments[3:]]) == 0
    assert "measured on this machine" not in json.loads(capsys.readouterr().out)["calibrated_on"]


def test_the_time_of_a_guarded_run_is_a_range_with_its_guards_named(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guarded = ("train.max_steps=200", "replay.source=self", "replay.share=0.5", "replay.objective=kl")
    options = [part for one in guarded for part in ("--set", one)]
    assert main(["plan", "--model", str(model), "--machine", "m4-16gb", "--json", *options]) == 0
    time = json.loads(capsys.readouterr().out)["time"]
    assert time["steps"] == 200
    assert 0 < time["total_s"][0] < time["total_s"][1]
    assert {"training", "rehearsal answers", "measuring before and after"} <= time["phases_s"].keys()
    assert time["guards_s"][1] < time["total_s"][1]
