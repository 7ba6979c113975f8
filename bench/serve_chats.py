"""What clients say to the servers of `serve_race.py`: chats, and a character that the model plays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PLACES = ("등대", "시장", "산사", "기차역", "바닷가", "학교", "빵집", "도서관")
DEEDS = ("첫눈", "오래된 편지", "길 잃은 고양이", "비 오는 밤")
FOLLOW_UPS = (
    "그다음에는 무슨 일이 있었어? 조금 더 이야기해 줘.",
    "그때 너는 어떤 마음이었어? 솔직하게 말해 줘.",
    "그 사람을 다시 만난다면 무슨 말을 하고 싶어?",
)
HABITS = (
    "{place}에서 보낸 어린 시절을 자주 떠올린다",
    "{deed} 이야기가 나오면 말이 길어진다",
    "{place}에 가면 반드시 혼자 걷는다",
    "{deed}에 얽힌 비밀은 아무에게도 말하지 않는다",
    "대답하기 전에 {place}를 한 번 바라본다",
)


def chats(count: int, turns: int, first: int = 0) -> list[list[str]]:
    """What the user says, turn by turn, in chats of which no two are alike, as long as their number is below 10,000."""
    numbers = range(first, first + count)
    return [
        [
            f"{PLACES[n % 8]}에서 만난 {DEEDS[n // 8 % 4]}에 대한 이야기 {n}을 들려줘.",
            *(f"{n}. {FOLLOW_UPS[(n + turn) % len(FOLLOW_UPS)]}" for turn in range(turns - 1)),
        ]
        for n in numbers
    ]


@dataclass(frozen=True)
class Length:
    """How long a text must be: `tokens` of `tokenizer`."""

    tokenizer: Any
    tokens: int

    def reached(self, text: str) -> bool:
        return len(self.tokenizer.encode(text)) >= self.tokens


def card(length: Length, number: int) -> str:
    """A character to play, as a system prompt of `length`, another for each number; "" for a length of 0."""
    if not length.tokens:
        return ""
    lines = [f"너는 {number}번 인물이다. {PLACES[number % 8]}에서 일한다. 언제나 이 인물로서 한국어로 짧게 대답한다."]
    while not length.reached("\n".join(lines)):
        n = len(lines)
        habit = HABITS[n % len(HABITS)].format(place=PLACES[(n + number) % 8], deed=DEEDS[n // 5 % 4])
        lines.append(f"{n}. {habit}.")
    return "\n".join(lines)
