from __future__ import annotations

import json

import pytest

from mlx_loopai.data.nested import natural_answer, natural_record
from mlx_loopai.data.records import Message, Record


@pytest.mark.parametrize(
    ("values", "natural"),
    [
        ({"text": ["첫 문단.", " 둘째 문단. "], "metadata": {"genre": "판타지"}}, "첫 문단.\n\n둘째 문단."),
        ({"Story": "한 편의 글."}, "한 편의 글."),
        ({"text": {"content": ["안쪽 글."]}}, "안쪽 글."),
        (
            [{"speaker": "나리", "text": "안녕?"}, {"speaker": "도윤", "text": "어서 와."}],
            "나리: 안녕?\n도윤: 어서 와.",
        ),
        ({"dialogue": [{"name": "가", "content": "왔니?"}]}, "가: 왔니?"),
        (["글 하나", "글 둘"], "글 하나\n\n글 둘"),
    ],
)
def test_the_text_inside_is_taken_out(values: object, natural: str) -> None:
    assert natural_answer(json.dumps(values, ensure_ascii=False)) == natural


@pytest.mark.parametrize(
    "content", ["그냥 글입니다.", "{잘린 JSON", '{"점수": 3}', "3", '"글"', "[]", "{}", "[" * 100_000]
)
def test_what_holds_no_text_is_left_alone(content: str) -> None:
    assert natural_answer(content) is None


def test_a_fence_around_it_goes_too() -> None:
    assert natural_answer('```json\n{"text": ["글."]}\n```') == "글."
    assert natural_answer('```python\n{"text": ["글."]}\n```') is None


def test_only_answers_are_changed() -> None:
    shaped = '{"text": ["글."]}'
    record = Record((Message("user", shaped), Message("assistant", shaped)), "chat", "domain", "a:1")
    changed, count = natural_record(record)
    assert [message.content for message in changed.messages] == [shaped, "글."]
    assert (count, changed.origin, changed.category) == (1, "a:1", "domain")
