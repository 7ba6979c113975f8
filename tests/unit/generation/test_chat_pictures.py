"""Pictures in a conversation: shown with a request, seen in every later one, kept beside the saved row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from converters.vision_encoder import add_encoder
from mlx_loopai.cli.chat_commands import obey, prepared_retry
from mlx_loopai.config import GenerationOptions
from mlx_loopai.data.records import read_records
from mlx_loopai.errors import InputError
from mlx_loopai.generation.answer_stream import Writing, write
from mlx_loopai.generation.chat import Chat, ChatOptions
from mlx_loopai.generation.kept_conversation import Conversation
from mlx_loopai.generation.prompts import Prompt
from mlx_loopai.generation.session import Session, open_session
from tests.tiny_vision_folder import write_vision_folder

GREEDY = GenerationOptions(temperature=0, max_tokens=6, scripts="off", repetition_penalty=1, repetition_guard=0)


@pytest.fixture(scope="module", params=["qwen2_vl", "added"])
def session(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path
) -> Session:
    folder = tmp_path_factory.mktemp("seeing") / "model"
    if request.param == "added":
        add_encoder(str(tiny_model_folder), "patches", folder, grid=2)
    else:
        write_vision_folder(folder, request.param, tiny_model_folder)
    return open_session(str(folder), dtype="fp32")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Two pictures that have the same tokens, the second with a space in its name."""
    found = [tmp_path / "first.png", tmp_path / "the second.png"]
    for seed, path in enumerate(found):
        pixels = np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return found


def chat_with(session: Session) -> Chat:
    return Chat(session, ChatOptions(GREEDY, context_tokens=400))


def said(chat: Chat, text: str) -> tuple[str, int]:
    """(the answer, how many tokens of its prompt were read)."""
    turn = chat.ask(text)
    return "".join(turn.pieces), turn.read_tokens


def fresh(session: Session, conversation: Conversation) -> str:
    """The last answer of a conversation, written again with nothing kept."""
    asked = Conversation(conversation.system, conversation.turns[:-1])
    prompt = Prompt(asked.messages(), "test")
    ids = session.prompt_ids(prompt)
    request = session.request(ids, GREEDY, pictures=session.pictures(prompt))
    return "".join(write(session.loaded, Writing(request)))


def test_a_picture_is_seen_in_its_turn_and_in_later_ones(session: Session, pictures: list[Path]) -> None:
    chat = chat_with(session)
    assert "first.png" in obey(chat, "image", str(pictures[0]))
    pictures[0].unlink()  # it is held in memory
    first, whole = said(chat, "무엇인가요?")
    assert first == fresh(session, chat.conversation)
    assert chat.pictures == ()
    second, read = said(chat, "더 말해 줘.")
    assert second == fresh(session, chat.conversation)
    assert read < whole + 12
    # Another picture has the same tokens, and nothing of the first may be left.
    obey(chat, "undo", "")
    obey(chat, "undo", "")
    obey(chat, "image", str(pictures[1]).replace(" ", "\\ "))
    other, read = said(chat, "무엇인가요?")
    assert other == fresh(session, chat.conversation)
    assert read == whole
    asked = prepared_retry(chat)
    again, _ = said(chat, asked)
    assert again == fresh(session, chat.conversation)
    assert len(chat.conversation.turns[0].pictures) == 1


def test_a_saved_conversation_has_its_pictures_and_training_reads_it(
    session: Session, pictures: list[Path], tmp_path: Path
) -> None:
    chat = chat_with(session)
    for path in (pictures[0], pictures[1], pictures[0]):
        obey(chat, "image", f"'{path}'")
    said(chat, "셋은 어떻게 다른가요?")
    # What a model of random weights says is cut, and training does not learn that.
    chat.begin(chat.conversation.with_turn("user", "고마워.").with_turn("assistant", "천만에요."))
    file = tmp_path / "talk.jsonl"
    chat.conversation.save(file)
    assert len(list((tmp_path / "talk.images").iterdir())) == 2
    [record] = read_records(file)
    shown = [picture.digest for picture in chat.conversation.turns[0].pictures]
    assert [picture.digest for message in record.messages for picture in message.pictures] == shown
    loaded = Conversation.load(file)
    assert [turn.content for turn in loaded.turns] == [turn.content for turn in chat.conversation.turns]
    assert [picture.digest for picture in loaded.turns[0].pictures] == shown
    loaded.save(file)
    assert "[first.png]" in chat.conversation.markdown()
    other = chat_with(session)
    other.begin(loaded)
    assert said(other, "또?")[0] == said(chat, "또?")[0]


def test_pictures_that_wait_can_be_taken_back(session: Session, pictures: list[Path]) -> None:
    chat = chat_with(session)
    obey(chat, "image", str(pictures[0]))
    obey(chat, "image", "")
    assert chat.pictures == ()
    said(chat, "무엇인가요?")
    assert not chat.conversation.turns[0].pictures


def test_what_is_no_picture_is_refused_at_once(session: Session, pictures: list[Path], tmp_path: Path) -> None:
    chat = chat_with(session)
    cut = tmp_path / "cut.png"
    cut.write_bytes(pictures[0].read_bytes()[:200])
    for name in (str(cut), str(tmp_path / "none.png"), "~nobody-of-that-name/a.png"):
        with pytest.raises(InputError, match=r"\.png: "):
            obey(chat, "image", name)
    assert chat.pictures == ()


def test_a_text_model_says_so(tiny_model_folder: Path, pictures: list[Path]) -> None:
    chat = chat_with(open_session(str(tiny_model_folder), dtype="fp32"))
    with pytest.raises(InputError, match="reads text only"):
        obey(chat, "image", str(pictures[0]))
