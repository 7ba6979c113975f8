"""Prompts with pictures: their tokens, the text that follows, in every way that text is written."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import mlx_loopai as m
from mlx_loopai.cli.main import commands
from mlx_loopai.config import GenerationOptions
from mlx_loopai.data.images import Picture, given_picture
from mlx_loopai.errors import InputError
from mlx_loopai.generation.answers import write_answers
from mlx_loopai.generation.batch import Batch
from mlx_loopai.generation.engine import stream
from mlx_loopai.generation.prompts import single_prompt
from mlx_loopai.generation.request import Request
from mlx_loopai.generation.session import Session, open_session
from mlx_loopai.models.backbone import hidden_states
from mlx_loopai.models.loss import Head
from tests.tiny_vision_folder import AFTER, BEFORE, IMAGE, TOWERS, write_vision_folder

TOKENS = 6
OPTIONS = GenerationOptions(temperature=0, max_tokens=TOKENS, scripts="off", repetition_penalty=1, repetition_guard=0)


@pytest.fixture(scope="module", params=TOWERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    return write_vision_folder(tmp_path_factory.mktemp("vision") / "model", request.param, tiny_model_folder)


@pytest.fixture(scope="module")
def session(folder: Path) -> Session:
    return open_session(str(folder), dtype="fp32")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    found = []
    for number, (width, height) in enumerate([(24, 16), (16, 40)]):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        found.append(tmp_path_factory.mktemp("pictures") / f"{number}.png")
        Image.fromarray(pixels).save(found[-1])
    return found


def request(session: Session, shown: list[Picture], text: str = "무엇인가요?") -> Request:
    prompt = single_prompt(text, shown)
    return session.request(session.prompt_ids(prompt), OPTIONS, pictures=session.pictures(prompt))


def greedy(session: Session, asked: Request) -> list[int]:
    """The first tokens of the answer, each from a pass over everything before it: no cache, no batch."""
    head, pictures, ids, found = Head.of(session.loaded.model), asked.pictures, list(asked.prompt), []
    assert pictures is not None
    for _ in range(TOKENS):
        states = hidden_states(session.loaded.model, mx.array([ids]), pictures=pictures)
        logits = np.array(head.project(head.arrays, states[:, -1], transpose=True))[0, : session.loaded.n_tokens]
        found.append(int(logits.argmax()))
        ids.append(found[-1])
        assert pictures.positions is not None
        further = pictures.positions.max(axis=(0, 2)) + 1
        pictures = type(pictures)(
            which=mx.concatenate([pictures.which, mx.zeros((1, 1), mx.int32)], axis=1),
            features=pictures.features,
            positions=mx.concatenate([pictures.positions, mx.broadcast_to(further[:, None], (3, 1, 1))], axis=2),
            deepstack=pictures.deepstack,
        )
    return found


def test_a_picture_is_its_tokens_between_two_marks(session: Session, pictures: list[Path]) -> None:
    ids = session.prompt_ids(single_prompt("둘", [given_picture(path) for path in pictures]))
    text = session.prompt_ids(single_prompt("둘"))
    first = ids.index(BEFORE)
    # 24 x 16 and 16 x 40 pixels in features of 8 x 8
    expected = [BEFORE, *[IMAGE] * 6, AFTER, BEFORE, *[IMAGE] * 10, AFTER]
    assert ids[first : first + len(expected)] == expected
    assert ids[:first] + ids[first + len(expected) :] == text


def test_the_text_is_what_whole_passes_choose(session: Session, pictures: list[Path]) -> None:
    asked = request(session, [given_picture(path) for path in pictures])
    expected = greedy(session, asked)
    found = [piece.token for piece in stream(session.loaded, asked)]
    assert [token for token in found if token is not None] == expected[: len(found)]
    assert found


def test_in_a_batch_each_answer_is_its_own(session: Session, pictures: list[Path]) -> None:
    asked = [request(session, [given_picture(path)]) for path in pictures]
    asked.append(session.request(session.prompt_ids(single_prompt("글만")), OPTIONS))
    alone = [[piece.token for piece in stream(session.loaded, one) if piece.token is not None] for one in asked]
    for order in ((0, 1, 2), (2, 1, 0)):  # the first prompt's cache merges those of the others
        together = dict(write_answers(session.loaded, [asked[place] for place in order]))
        assert [list(together[order.index(place)].text.tokens) for place in range(3)] == alone
    best = dict(write_answers(session.loaded, asked[:1], best_of=2))
    assert list(best[0].text.tokens) == alone[0]


def test_a_batch_writes_to_several_pictures_at_once(session: Session, pictures: list[Path]) -> None:
    with Batch(session.loaded, 4) as batch:
        keys = {batch.add(request(session, [given_picture(path)])) for path in pictures}
        steps = [[piece.key for piece in batch.step()] for _ in range(4)]
    assert keys in [set(step) for step in steps]


def test_a_picture_decides_the_text(session: Session, pictures: list[Path]) -> None:
    first, second = (request(session, [given_picture(pictures[number])]) for number in (0, 1))
    head = Head.of(session.loaded.model)
    last = [
        np.array(
            head.project(
                head.arrays,
                hidden_states(session.loaded.model, mx.array([one.prompt]), pictures=one.pictures)[:, -1],
                transpose=True,
            )
        )
        for one in (first, second)
    ]
    assert np.abs(last[0] - last[1]).max() > 1e-3


def test_the_command_and_the_library_write_the_same(folder: Path, pictures: list[Path]) -> None:
    arguments = ["generate", "이 그림은?", "--model", str(folder), "--max-tokens", "5", "--json", "--quiet"]
    images = [one for path in pictures for one in ("--image", str(path))]
    shown = CliRunner().invoke(commands, [*arguments, *images])
    assert shown.exception is None, shown.output
    found = m.generate("이 그림은?", folder, images=pictures, max_tokens=5)
    assert json.loads(shown.stdout)["text"] == found.text
    assert json.loads(shown.stdout)["prompt_tokens"] == found.prompt_tokens
    assert found.prompt_tokens > m.generate("이 그림은?", folder, max_tokens=5).prompt_tokens


def test_a_model_of_text_alone_says_so(pictures: list[Path]) -> None:
    shown = CliRunner().invoke(commands, ["generate", "이 그림은?", "--image", str(pictures[0]), "--quiet"])
    assert isinstance(shown.exception, InputError)
    assert str(shown.exception).startswith(f"prompt: {pictures[0]}: this model reads text only")


@pytest.mark.parametrize("option", ["--prompts", "--prompt-cache", "--draft-model"])
def test_options_that_pictures_exclude(option: str, pictures: list[Path], tmp_path: Path) -> None:
    value = str(tmp_path / "a.safetensors")
    prompt = [] if option == "--prompts" else ["그림"]
    shown = CliRunner().invoke(commands, ["generate", *prompt, "--image", str(pictures[0]), option, value])
    assert "--image" in str(shown.exception)


def test_the_name_of_the_picture_token_in_a_text_is_refused(session: Session, pictures: list[Path]) -> None:
    asked = single_prompt("그림", [given_picture(pictures[0])])
    ids = session.prompt_ids(asked)
    with pytest.raises(InputError, match="a text contains the name of the control token"):
        session.request([*ids, IMAGE], OPTIONS, pictures=session.pictures(asked))


def test_without_pillow_it_says_what_to_install(pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    from mlx_loopai.data.images import picture_size

    with pytest.raises(InputError, match="pictures need Pillow: .*vision"):
        picture_size(given_picture(pictures[0]))
