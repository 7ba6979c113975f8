"""Tokenizers for the data tests: a tiny byte-level BPE made here, and Qwen2.5's where MLX_LOOPAI_REAL_TOKENIZER is set."""

from __future__ import annotations

import os

import pytest
from transformers import PreTrainedTokenizerFast

from tests.tiny_files import byte_tokenizer

REAL_TOKENIZER = os.environ.get("MLX_LOOPAI_REAL_TOKENIZER", "")

CHATML = (
    "{%- if messages[0]['role'] != 'system' %}"
    "{{- '<|im_start|>system\\n너는 도우미다.<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

# Written after what Qwen3 does: the last answer opens with a thinking block, past ones have theirs taken out.
THINKING = (
    "{%- set ns = namespace(last=-1) %}"
    "{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'assistant' %}"
    "{%- set answer = message['content'].split('</think>')[-1].lstrip('\\n') %}"
    "{%- if loop.index0 > ns.last and loop.last %}"
    "{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + answer + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>assistant\\n' + answer + '<|im_end|>\\n' }}{%- endif %}"
    "{%- else %}{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)

LINES = ["안녕하세요. 오늘 날씨가 참 좋네요!", "이야기를 한 편 써 주세요.", "Hello, how are you?", "너는 도우미다."] * 4


def tiny_tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    bpe = byte_tokenizer(LINES, 400)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="session")
def chatml() -> PreTrainedTokenizerFast:
    return tiny_tokenizer(CHATML)


@pytest.fixture(scope="session")
def thinking() -> PreTrainedTokenizerFast:
    return tiny_tokenizer(THINKING)


@pytest.fixture
def with_template():
    """Builds a tiny tokenizer with the given template."""
    return tiny_tokenizer


@pytest.fixture(scope="session")
def qwen():
    if not REAL_TOKENIZER:
        pytest.skip("MLX_LOOPAI_REAL_TOKENIZER names no folder")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(REAL_TOKENIZER)


@pytest.fixture(params=["chatml", "qwen"])
def tokenizer(request):
    return request.getfixturevalue(request.param)
