from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_loopai.config import GenerationOptions, SamplingOptions
from mlx_loopai.data.records import Message, read_records
from mlx_loopai.errors import InputError
from mlx_loopai.generation import answer_stream
from mlx_loopai.generation import chat as chat_module
from mlx_loopai.generation.chat import Chat, ChatOptions
from mlx_loopai.generation.engine import generate_stream
from mlx_loopai.generation.kept_conversation import Conversation
from mlx_loopai.generation.prompts import Prompt
from mlx_loopai.generation.session import ContextOverflow, Session, open_session

QUESTIONS = ["안녕하세요?", "한국의 수도는?", "호랑이 이야기를 들려줘."]
GREEDY = GenerationOptions(temperature=0, max_tokens=20, scripts="off")


class CountingModel:
    """A model that counts the tokens it reads."""

    def __init__(self, model: Any) -> None:
        self._model, self.read = model, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, inputs: mx.array, *arguments: Any, **named: Any) -> Any:
        self.read += inputs.size
        return self._model(inputs, *arguments, **named)


@pytest.fixture(scope="module")
def session() -> Session:
    return open_session("nano", dtype="fp32")


def fresh(session: Session, conversation: Conversation, options: SamplingOptions = GREEDY) -> str:
    """The next answer without anything kept."""
    ids = session.prompt_ids(Prompt(conversation.messages(), "test"))
    return "".join(piece.text for piece in generate_stream(session.loaded, ids, options))


def test_turns_equal_fresh_answers_and_read_only_what_is_new(session: Session) -> None:
    counting = CountingModel(session.loaded.model)
    counted = dataclasses.replace(session, loaded=dataclasses.replace(session.loaded, model=counting))
    chat = Chat(counted, ChatOptions(GREEDY, context_tokens=1024))
    earlier = 0
    for question in QUESTIONS:
        expected = fresh(session, chat.conversation.with_turn("user", question))
        counting.read = 0
        turn = chat.ask(question)
        assert "".join(turn.pieces) == expected
        assert chat.conversation.turns[-2:] == (Message("user", question), Message("assistant", expected))
        # What was said is known, but for the marker after the last answer; one step may run ahead of the end.
        written = turn.writing.text()
        assert written.prompt_tokens - turn.read_tokens >= earlier
        assert turn.read_tokens < written.prompt_tokens or not earlier
        assert turn.read_tokens + written.generated_tokens <= counting.read + 1
        assert counting.read <= turn.read_tokens + written.generated_tokens + 1
        earlier = written.prompt_tokens + written.generated_tokens - 1


def test_going_back_and_being_stopped_leave_nothing_stale(session: Session) -> None:
    chat = Chat(session, ChatOptions(GREEDY, context_tokens=1024))
    for question in QUESTIONS[:2]:
        assert "".join(chat.ask(question).pieces)
    chat.begin(chat.conversation.undone())
    again = chat.conversation.with_turn("user", QUESTIONS[2])
    turn = chat.ask(QUESTIONS[2])
    begun = "".join(next(turn.pieces) for _ in range(6))
    turn.pieces.close()
    assert begun.strip()
    assert chat.conversation == again.with_turn("assistant", begun, whole=False)
    expected = fresh(session, chat.conversation.with_turn("user", QUESTIONS[1]))
    assert "".join(chat.ask(QUESTIONS[1]).pieces) == expected


def test_stopped_before_a_word_leaves_the_conversation_as_it_was(session: Session) -> None:
    chat = Chat(session, ChatOptions(GREEDY, context_tokens=1024))
    turn = chat.ask(QUESTIONS[0])
    turn.pieces.close()
    assert chat.conversation.turns == ()


def test_the_oldest_turns_leave_when_the_context_is_full(session: Session) -> None:
    chat = Chat(session, ChatOptions(GREEDY, context_tokens=120))
    left = 0
    for _ in range(8):
        turn = chat.ask(QUESTIONS[1])
        assert len(turn.writing.request.prompt) + GREEDY.max_tokens <= 120
        assert "".join(turn.pieces)
        left += turn.left_out
    assert 0 < left < 8
    assert chat.conversation.exchanges == 8  # what the model no longer reads can still be saved
    with pytest.raises(ContextOverflow, match="shorten it"):
        chat.ask("가 나 다 " * 60)
    # A request that was refused takes nothing from the conversation.
    kept = chat.ask(QUESTIONS[1])
    assert len(kept.writing.request.prompt) > 60
    kept.pieces.close()
    with pytest.raises(InputError, match="empty"):
        chat.ask("  ")
    assert chat.conversation.exchanges == 8


def test_the_seed_moves_on_with_the_turns(session: Session) -> None:
    options = ChatOptions(GREEDY.model_copy(update={"temperature": 1.2, "seed": 4}), context_tokens=1024)
    talks = []
    for _ in range(2):
        chat = Chat(session, options)
        talks.append([("".join(chat.ask(QUESTIONS[2]).pieces), chat.conversation.exchanges) for _ in range(2)])
    assert talks[0] == talks[1]
    assert talks[0][0][0] != talks[0][1][0]


def test_the_filter_stands_between(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_loopai.generation.engine import Piece

    pieces = [Piece("<b>안", 5, False), Piece("녕</b>", None, True)]
    monkeypatch.setattr(answer_stream, "stream", lambda *_: (piece for piece in pieces))
    monkeypatch.setattr(chat_module.KeptCache, "keep", lambda self, tokens: None)
    chat = Chat(session, ChatOptions(GREEDY.model_copy(update={"scripts": "ko"}), 1024))
    turn = chat.ask("?")
    assert "".join(turn.pieces) == "안녕" == chat.conversation.turns[-1].content
    written = turn.writing.text()
    assert written.removed == {"html": 2}
    assert (written.generated_tokens, written.finished) == (1, True)


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    talk = Conversation("짧게.").with_turn("user", "하나").with_turn("assistant", "둘")
    talk.save(path)
    assert Conversation.load(path) == talk
    assert [message.role for message in read_records(path)[0].messages] == ["system", "user", "assistant"]
    longer = dataclasses.replace(talk.with_turn("user", "셋").with_turn("assistant", "넷"), system="")
    longer.save(path)
    assert Conversation.load(path) == longer


@pytest.mark.parametrize(
    "rows",
    [
        [{"text": "일기"}],
        [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 2,
        [{"messages": [{"role": "assistant", "content": "b"}]}],
    ],
)
def test_other_files_are_neither_loaded_nor_written_over(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = path.read_bytes()
    with pytest.raises(InputError, match="not a saved chat"):
        Conversation.load(path)
    with pytest.raises(InputError):
        Conversation().with_turn("user", "a").with_turn("assistant", "b").save(path)
    assert path.read_bytes() == before
    with pytest.raises(InputError, match="nothing to save"):
        Conversation().save(tmp_path / "new.jsonl")
