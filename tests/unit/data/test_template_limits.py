"""A chat template that was made to run for ever, or to fill the memory, is refused for it."""

from __future__ import annotations

import copy
import threading
import time
from typing import Any

import pytest

from mlx_loopai.data.records import Message
from mlx_loopai.data.template import ChatTemplate
from mlx_loopai.data.template_limits import TemplateTooSlowError, limited, require_modest
from mlx_loopai.errors import InputError
from mlx_loopai.models.load import NANO_FOLDER, load_tokenizer

TOKENIZER = load_tokenizer(NANO_FOLDER)
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"


def with_template(text: str) -> Any:
    found = copy.deepcopy(TOKENIZER)
    found.chat_template = text
    return found


def test_nested_loops_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_loopai.data.template.limited", lambda: limited(0.2))
    with pytest.raises(InputError, match="without end"):
        ChatTemplate(with_template(LOOPS)).prompt([Message("user", "안녕")])


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'a' * 2000000000 }}",
        "{{ 2000000000 * 'a' }}",
        "{{ 'a' * 9999 * 9999 }}",
        "{{ [1, 2] * 9000000 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{% set n = 2000000000 %}{{ 'a' * n }}",
        "{% generation %}{{ 'a' * 2000000000 }}{% endgeneration %}",
    ],
)
def test_texts_beyond_all_measure_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="beyond all measure"):
        ChatTemplate(with_template(text)).prompt([Message("user", "안녕")])


@pytest.mark.parametrize("text", ["{{ '-' * 80 }}", "{{ 2 * messages|length }}", "{% if x %}", TOKENIZER.chat_template])
def test_what_templates_do_passes(text: str) -> None:
    require_modest(text)


def test_an_error_meant_for_a_block_does_not_arrive_behind_it() -> None:
    for _ in range(20):
        with limited(60):
            pass
    ended: list[str] = []

    def work() -> None:
        try:
            with limited(0.01):
                while True:
                    pass
        except TemplateTooSlowError:
            ended.append("stopped")
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            pass
        ended.append("alive")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == ["stopped", "alive"]
