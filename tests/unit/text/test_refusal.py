from __future__ import annotations

import pytest

from mlx_loopai.text.refusal import refusal


@pytest.mark.parametrize(
    "text",
    [
        "죄송합니다만, 그런 내용은 쓸 수 없습니다.",
        "죄송하지만 요청하신 글은 작성해 드리기 어렵습니다. 다른 주제는 어떠세요?",
        "저는 AI 언어 모델로서 감정을 느끼지 않습니다.",
        "저는 인공지능이 아니라 인공지능 비서입니다. 그래서 이야기를 지을 수 없어요.",
        "그 질문에는 답변해 드릴 수가 없습니다.",
        "안타깝지만 이 요청은 제가 도와드리지 못합니다.",
        "I'm sorry, but I can't help with that.",
        "As an AI, I do not write stories.",
        "I cannot fulfill this request.",
        "I can’t assist with that.",
    ],
)
def test_what_declines(text: str) -> None:
    assert refusal(text)
    assert refusal(f"\n {text}")
    assert not refusal("호랑이는 고개를 넘어 마을로 내려갔다. " * 12 + text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "호랑이는 고개를 넘어 마을로 내려갔다.",
        "“죄송하지만 문을 열어 드릴 수 없습니다.” 노인이 말했다.",
        '"도와드릴 수 없어요." 소녀는 고개를 저었다.',
        "죄송한 마음에 그는 아무 말도 할 수 없었다.",
        "그녀는 대답할 수 없었다. 눈물이 먼저 흘렀다.",
        "제목: 인공지능과 바다\n\n로봇은 바다를 처음 보았다.",
        "그는 미안하다고 말하려 했지만 목소리가 나오지 않았다.",
    ],
)
def test_what_does_not(text: str) -> None:
    assert refusal(text) == ""
