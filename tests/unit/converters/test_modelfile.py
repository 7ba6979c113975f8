"""Ollama's Modelfile: what of a model's chat it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from converters.convert import convert
from converters.writers.modelfile import modelfile
from converters.writers.target import Target
from mlx_loopai.models.load import NANO_FOLDER

TOKENIZER = [NANO_FOLDER / "tokenizer.json"]


def filled(text: str, messages: list[tuple[str, str]], system: str = "") -> str:
    """What Ollama makes of the template, for the few actions that it has."""
    template = re.search(r'TEMPLATE """(.*?)"""', text, re.DOTALL)
    assert template is not None
    turns = [f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages]
    whole = (f"<|im_start|>system\n{system}<|im_end|>\n" if system else "") + "".join(turns)
    for part in ("<|im_start|>system\n{{ .System }}<|im_end|>\n", "<|im_start|>user\n{{ .Content }}<|im_end|>\n"):
        assert part in template[1]
    return whole + "<|im_start|>assistant\n"


def test_chatml_has_its_template_stops_and_parameters() -> None:
    text = modelfile("./m.gguf", TOKENIZER, {"temperature": 0.7, "top_k": 20, "do_sample": True}, "./a.gguf")
    lines = text.splitlines()
    assert lines[:2] == ["FROM ./m.gguf", "ADAPTER ./a.gguf"]
    assert 'PARAMETER stop "<|im_end|>"' in lines
    assert "PARAMETER temperature 0.7" in lines
    assert "PARAMETER top_k 20" in lines
    assert "do_sample" not in text
    assert filled(text, [("user", "0?")]).endswith("<|im_start|>user\n0?<|im_end|>\n<|im_start|>assistant\n")
    assert text.count('"""') % 2 == 0


@pytest.mark.parametrize("system", ["", "You are a poet."])
def test_a_default_system_prompt_is_said(tmp_path: Path, system: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(TOKENIZER[0].read_bytes())
    first = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    turns = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    settings = {"eos_token": "<|im_end|>", "chat_template": first + turns, "tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    text = modelfile("./m.gguf", [tmp_path / "tokenizer.json"], None)
    assert ('SYSTEM """You are a poet."""' in text) is bool(system)


def test_another_template_stays_in_the_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(TOKENIZER[0].read_bytes())
    settings = {
        "eos_token": "<|im_end|>",
        "chat_template": "{{ messages[0]['content'] }}:",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    text = modelfile("./m.gguf", [tmp_path / "tokenizer.json"], None)
    assert "TEMPLATE " not in text.replace("No TEMPLATE", "")
    assert 'PARAMETER stop "<|im_end|>"' in text


def test_it_lies_beside_each_gguf_file(tiny_model_folder: Path, tmp_path: Path) -> None:
    convert(tiny_model_folder, tmp_path / "tiny.gguf", target=Target(to="gguf"))
    text = (tmp_path / "tiny.Modelfile").read_text()
    assert text.startswith("FROM ./tiny.gguf\nTEMPLATE ")
