"""Pictures in requests to the server: data: URLs and nothing else, of a size of their own, each with its own answer."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from converters.vision_encoder import add_encoder
from mlx_loopai.config import GenerationOptions
from mlx_loopai.data.images import Picture
from mlx_loopai.generation.answer_stream import Writing, write
from mlx_loopai.generation.prompts import single_prompt
from mlx_loopai.generation.session import Session, open_session
from tests.tiny_vision_folder import write_vision_folder
from tests.unit.serving.conftest import Running, Serving

OPTIONS = GenerationOptions(temperature=0, max_tokens=6, scripts="off")


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Session:
    folder = write_vision_folder(tmp_path_factory.mktemp("vision") / "model", "qwen2_vl", tiny_model_folder)
    return open_session(str(folder), dtype="fp32")


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def data_url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def ask(server: Running, *parts: Any, **fields: Any) -> Any:
    options = {"temperature": 0, "max_tokens": 6, "scripts": "off"}
    return server.ask([*parts, {"type": "text", "text": "무엇인가요?"}], **options | fields)  # type: ignore[arg-type]


def test_the_answer_is_that_of_the_picture(seeing: Session, serving: Serving) -> None:
    with serving(session=seeing) as server:
        for seed in (0, 1, 0):
            prompt = single_prompt("무엇인가요?", [Picture("p", data=png(seed))])
            ids = seeing.prompt_ids(prompt)
            writing = Writing(seeing.request(ids, OPTIONS, pictures=seeing.pictures(prompt)))
            expected = "".join(write(seeing.loaded, writing))
            found = ask(server, part(data_url(png(seed)))).json()
            assert found["choices"][0]["message"]["content"] == expected
            assert found["usage"]["prompt_tokens"] == len(ids)


@pytest.mark.parametrize("kind", ["qwen3_vl", "added"])
def test_a_model_that_saw_nothing_before_answers_in_the_server_s_thread(
    kind: str, serving: Serving, tmp_path: Path, tiny_model_folder: Path
) -> None:
    """MLX evaluates an array in the thread that made it: what loading leaves undone cannot be done here."""
    if kind == "added":
        folder = add_encoder(str(tiny_model_folder), "patches", tmp_path / "model").out
    else:
        folder = write_vision_folder(tmp_path / "model", kind, tiny_model_folder)
    with serving(session=open_session(str(folder), dtype="fp32")) as server:
        assert ask(server, part(data_url(png(0)))).status_code == 200


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://example.com/cat.png", "only data: URLs"),
        ("file:///etc/passwd", "only data: URLs"),
        ("data:image/svg+xml;base64,PHN2Zy8+", "only data: URLs"),
        ("data:image/png;base64,@@@", "not in base64"),
        (data_url(b"<svg/>"), "not a picture that can be read"),
        (data_url(png(0)[:60]), "picture"),
    ],
)
def test_anything_else_is_refused(seeing: Session, serving: Serving, url: str, said: str) -> None:
    with serving(session=seeing) as server:
        found = ask(server, part(url))
        assert found.status_code == 400
        assert said in found.json()["error"]["message"]


def test_a_text_model_says_so(nano: Session, serving: Serving) -> None:
    with serving() as server:
        found = ask(server, part(data_url(png(0))))
        assert found.status_code == 400
        assert "reads text only" in found.json()["error"]["message"]


def test_a_body_with_pictures_has_a_limit_of_its_own(seeing: Session, nano: Session, serving: Serving) -> None:
    large = data_url(png(0) + bytes(2 << 20))
    with serving(session=seeing) as server:
        assert ask(server, part(large)).status_code != 413
    with serving() as server:
        assert ask(server, part(large)).status_code == 413


def test_text_is_answered_while_a_picture_is(seeing: Session, serving: Serving) -> None:
    """A model with three rotary positions answers both as it does one after the other."""
    from concurrent.futures import ThreadPoolExecutor

    with serving(session=seeing) as server, ThreadPoolExecutor(4) as pool:
        alone = [
            ask(server, *parts).json()["choices"][0]["message"]["content"] for parts in ([], [part(data_url(png(2)))])
        ]
        asked = [pool.submit(ask, server, *parts) for parts in ([], [part(data_url(png(2)))]) * 2]
        found = [one.result().json()["choices"][0]["message"]["content"] for one in asked]
    assert found == alone * 2
