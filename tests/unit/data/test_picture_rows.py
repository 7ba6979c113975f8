"""Rows with pictures: TRL's forms, where the pictures are looked for, and what they become."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mlx_loopai.data.conversation import PICTURE, Message, pictures_in
from mlx_loopai.data.images import picture_size
from mlx_loopai.data.records import read_all
from mlx_loopai.data.shapes import interpret
from mlx_loopai.data.turns import UnreadableError
from mlx_loopai.errors import InputError

ANSWER = {"role": "assistant", "content": "고양이"}
IMAGE = {"type": "image"}


def asked(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


@pytest.mark.parametrize(
    ("row", "contents"),
    [
        ({"messages": [asked(IMAGE, text("누구?")), ANSWER], "images": ["a.png"]}, f"{PICTURE}누구?"),
        ({"messages": [asked(text("앞"), IMAGE, text("뒤")), ANSWER], "images": ["a.png"]}, f"앞{PICTURE}뒤"),
        ({"messages": [asked(IMAGE, IMAGE), ANSWER], "images": ["a.png", "b.png"]}, PICTURE * 2),
        ({"prompt": "누구?", "completion": "고양이", "images": ["a.png"]}, f"{PICTURE}누구?"),
        ({"prompt": "누구?", "completion": "고양이", "image": "a.png"}, f"{PICTURE}누구?"),
        ({"prompt": [asked(text("a"), IMAGE)], "completion": [ANSWER], "images": [{"path": "a.png"}]}, f"a{PICTURE}"),
        ({"prompt": f"누{PICTURE}구?", "completion": "고양이"}, "누구?"),
        ({"prompt": "누구?", "completion": "고양이", "images": []}, "누구?"),
    ],
)
def test_pictures_stand_where_their_parts_do_or_first(row: dict[str, Any], contents: str) -> None:
    meaning = interpret(row)
    assert meaning.messages[0].content == contents
    names = [picture.name for picture in pictures_in(meaning.messages)]
    assert names == ["a.png", "b.png"][: contents.count(PICTURE)]
    assert not meaning.unused


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": [asked(IMAGE), ANSWER]}, "1 image parts and 0 pictures"),
        ({"messages": [asked(IMAGE), ANSWER], "images": ["a.png", "b.png"]}, "1 image parts and 2 pictures"),
        ({"messages": [asked(text("a")), {**ANSWER, "content": [IMAGE]}], "images": ["a.png"]}, "not the user's"),
        ({"prompt": "a", "completion": "b", "images": [3]}, "must be the path of a file"),
        ({"text": "그림 없는 글", "images": ["a.png"]}, "no request that shows them"),
    ],
)
def test_parts_and_pictures_must_belong_together(row: dict[str, Any], said: str) -> None:
    with pytest.raises(UnreadableError, match=said):
        interpret(row)


def test_a_picture_is_looked_for_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path.parent / "outside.png")
    names = ["in/a.png", "../outside.png", "in/b.png", "/etc/hosts"]
    rows = [{"prompt": "누구?", "completion": "고양이", "images": [name]} for name in names]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    reading = read_all(file)
    assert [record.messages[0].pictures[0].path for record in reading.records] == [tmp_path / "in" / "a.png"]
    reasons = [str(row) for row in reading.bad]
    assert [reason.split(":")[1] for reason in reasons] == ["2", "3", "4"]
    assert ["outside of" in reason or "no such file" in reason for reason in reasons] == [True] * 3


def test_a_row_may_hold_its_pictures_itself(tmp_path: Path) -> None:
    """As the writing page writes conversations with pictures into one file."""
    file, image = tmp_path / "rows.jsonl", io.BytesIO()
    Image.new("RGB", (30, 20)).save(image, "PNG")
    urls = [f"data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}", "data:image/png;base64,@@@"]
    rows = [{"messages": [asked(IMAGE, text("누구?")), ANSWER], "images": [url]} for url in urls]
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    reading = read_all(file)
    (picture,) = reading.records[0].messages[0].pictures
    assert (picture.content, picture_size(picture)) == (image.getvalue(), (20, 30))
    assert ["not in base64" in str(row) for row in reading.bad] == [True]


def test_a_turn_with_pictures_is_not_written_away_from_them(tmp_path: Path) -> None:
    (message,) = interpret({"prompt": "a", "completion": "b", "image": "a.png"}).messages[:1]
    with pytest.raises(InputError, match="not copied into another file"):
        message.as_row()
    assert Message("user", "a").as_row() == {"role": "user", "content": "a"}
