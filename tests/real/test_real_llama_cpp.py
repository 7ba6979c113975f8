"""llama.cpp reads our GGUF as the same model: the same ids of a prompt, and the same greedy answer.

It needs `pip install mlx-loopai[gguf]` (llama-cpp-python, MIT; built from source where there is no wheel) and
the folder MLX_LOOPAI_REAL of test_real_qwen.py. MLX_LOOPAI_REAL_ADAPTER names an adapter of that model.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import mlx_loopai  # noqa: F401

# isort: split
import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step

from converters.adapter_beside_gguf import write_beside_gguf
from converters.convert import convert
from converters.writers.target import Target
from mlx_loopai.models.adapter_folder import read_adapter
from mlx_loopai.models.adapters import load_adapter
from mlx_loopai.models.load import LoadedModel, load_model

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra: gguf)")

REAL = Path(os.environ.get("MLX_LOOPAI_REAL", ""), "q05")
QUESTIONS = ["한국의 수도는 어디인가요?", "비 오는 날의 이야기를 두 문장으로 써 주세요."]
ANSWER_TOKENS = 32

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not (REAL / "config.json").is_file(), reason="MLX_LOOPAI_REAL names no folder with a real checkpoint"
    ),
]


def test_llama_cpp_gives_the_same_ids_and_the_same_answer(tmp_path: Path) -> None:
    convert(REAL, tmp_path / "m.gguf", target=Target(to="gguf", dtype="bf16"))
    convert(tmp_path / "m.gguf", tmp_path / "mlx")
    ours = load_model(str(tmp_path / "mlx"), "fp32")
    theirs = llama_cpp.Llama(str(tmp_path / "m.gguf"), n_ctx=256, n_threads=1, verbose=False)
    assert theirs.metadata["tokenizer.chat_template"] == ours.tokenizer.chat_template
    check_answers(ours, theirs)


@pytest.mark.skipif("MLX_LOOPAI_REAL_ADAPTER" not in os.environ, reason="MLX_LOOPAI_REAL_ADAPTER names no adapter")
def test_an_adapter_on_a_q8_0_base_gives_our_answers(tmp_path: Path) -> None:
    adapter = Path(os.environ["MLX_LOOPAI_REAL_ADAPTER"])
    convert(REAL, tmp_path / "m.gguf", target=Target(to="gguf", quantize="q8_0"))
    write_beside_gguf(tmp_path / "a.gguf", read_adapter(adapter), tmp_path / "m.gguf")
    convert(tmp_path / "m.gguf", tmp_path / "mlx", target=Target(dtype="fp32"))
    ours = load_model(str(tmp_path / "mlx"), "fp32")
    load_adapter(ours.model, adapter)  # its base is the dense one, of which this is the rounded copy
    theirs = llama_cpp.Llama(
        str(tmp_path / "m.gguf"), lora_path=str(tmp_path / "a.gguf"), n_ctx=256, n_threads=1, verbose=False
    )
    check_answers(ours, theirs)


def check_answers(ours: LoadedModel, theirs: llama_cpp.Llama) -> None:
    ends = set(ours.tokenizer.eos_token_ids)
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        text = ours.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = ours.tokenizer.encode(text, add_special_tokens=False)
        assert theirs.tokenize(text.encode(), add_bos=False, special=True) == ids
        theirs.reset()
        greedy = itertools.islice(theirs.generate(ids, temp=0.0), ANSWER_TOKENS)
        wanted = list(itertools.takewhile(lambda token: token not in ends, greedy))
        steps = generate_step(mx.array(ids), ours.model, max_tokens=ANSWER_TOKENS)
        found = list(itertools.takewhile(lambda token: token not in ends, (int(token) for token, _ in steps)))
        assert len(found) > 3
        assert found == wanted
        assert ours.tokenizer.decode(found) == theirs.detokenize(wanted).decode()
