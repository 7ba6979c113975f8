"""An adapter's base is found by the run that made it, or by what the adapter records."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlx_loopai.errors import InputError
from mlx_loopai.models.load import NANO, NANO_FOLDER, hash_base
from mlx_loopai.runs.base_of_adapter import base_of


def write_run(folder: Path, model: str | None = None, **notes: Any) -> Path:
    (folder / "adapter").mkdir(parents=True)
    config = {"lora_parameters": {"rank": 2, "scale": 1.0}, "mlx_loopai": notes}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    if model is not None:
        (folder / "resolved.yaml").write_text(yaml.safe_dump({"model": model}), encoding="utf-8")
    return folder


def test_without_an_adapter_the_model_is_what_was_said_or_nano() -> None:
    assert base_of(None) == NANO
    assert base_of(None, "models/base") == "models/base"


@pytest.mark.parametrize("inner", ["", "adapter"])
def test_a_run_names_its_base(tmp_path: Path, tiny_model_folder: Path, inner: str) -> None:
    run = write_run(tmp_path / "run", str(tiny_model_folder), base_hash=hash_base(tiny_model_folder))
    assert base_of(run / inner) == str(tiny_model_folder)


def test_an_adapter_alone_names_a_base_of_the_hub(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", base="Qwen/Qwen2.5-0.5B-Instruct", base_hash="1" * 64)
    assert base_of(run / "adapter") == "Qwen/Qwen2.5-0.5B-Instruct"


def test_nano_is_known_by_its_hash(tmp_path: Path) -> None:
    assert base_of(write_run(tmp_path / "run", base="old-copy", base_hash=hash_base(NANO_FOLDER))) == NANO


@pytest.mark.parametrize("gone", ["folder", "changed"])
def test_a_base_that_is_gone_or_changed_is_asked_for(tmp_path: Path, tiny_model_folder: Path, gone: str) -> None:
    base = tmp_path / "models" / "base"
    shutil.copytree(tiny_model_folder, base)
    run = write_run(tmp_path / "run", "models/base", base="base", base_hash=hash_base(base))
    with contextlib.chdir(tmp_path):
        assert base_of(run) == "models/base"
        if gone == "folder":
            shutil.rmtree(base)
        else:
            (base / "config.json").write_text("{}", encoding="utf-8")
        with pytest.raises(InputError, match=r"models/base or base, is not here or has changed; give the base as `m"):
            base_of(run)


def test_a_wrong_base_is_named_before_anything_is_loaded(tmp_path: Path, tiny_model_folder: Path) -> None:
    run = write_run(tmp_path / "run", base="Qwen/Qwen2.5-0.5B-Instruct", base_hash="1" * 64)
    with pytest.raises(InputError, match="another base, Qwen/Qwen2.5-0.5B-Instruct"):
        base_of(run, str(tiny_model_folder))


def test_an_adapter_that_names_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not name its base"):
        base_of(write_run(tmp_path / "run"))


def test_a_broken_configuration_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", base="x")
    (run / "resolved.yaml").write_text("model: [", encoding="utf-8")
    with pytest.raises(InputError, match=r"resolved\.yaml: not YAML"):
        base_of(run)
