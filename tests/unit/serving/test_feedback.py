"""`/v1/feedback`: off unless a file is named, guarded as the rest, and one row a judgement."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from mlx_loopai.data.records import read_all
from mlx_loopai.serving.feedback import feedback_row
from mlx_loopai.serving.shapes import ApiError
from tests.unit.serving.conftest import Serving

USER = {"role": "user", "content": "안녕?"}
PICK = {"prompt": [USER], "chosen": "안녕하세요.", "rejected": "Hi"}
SHOWN = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
VOTE = {"prompt": [USER], "completion": "안녕하세요.", "label": False}


def test_judgements_are_rows_that_train_reads(serving: Serving, tmp_path: Path) -> None:
    file = tmp_path / "feedback.jsonl"
    with serving(feedback=file) as running:
        url = f"{running.url}/v1/feedback"
        assert [httpx.post(url, json=body).json()["added"] for body in (PICK, VOTE, PICK)] == [1, 1, 0]
        refused = httpx.post(url, json=PICK, headers={"Origin": "https://elsewhere.example"})
        assert refused.status_code == 403
        plain = httpx.post(url, content=json.dumps(PICK), headers={"Content-Type": "text/plain"})
        assert plain.status_code == 415
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(row["source"], row["model"]) for row in rows] == [("pick", "nano"), ("vote", "nano")]
    assert len(read_all(file).judged) == 2
    assert not read_all(file).unused


def test_without_a_file_there_is_no_such_route(serving: Serving) -> None:
    with serving() as running:
        assert httpx.post(f"{running.url}/v1/feedback", json=PICK).status_code == 404


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (PICK | {"source": "spliced"}, "expected one of pick, edit, vote, draft"),
        (PICK | {"rejected": "안녕하세요."}, "the same answer"),
        ({"prompt": "안녕?", "completion": "네"}, "nothing was judged"),
        ({"prompt": "안녕?", "label": True}, "unknown shape"),
        (PICK | {"prompt": [{"role": "user", "content": [SHOWN, {"type": "text", "text": "?"}]}]}, "no run learns"),
        (PICK | {"images": ["data:image/png;base64,AA=="]}, "no run learns"),
    ],
)
def test_what_was_not_judged_is_refused(body: dict, reason: str) -> None:
    with pytest.raises(ApiError, match=reason) as caught:
        feedback_row(json.dumps(body).encode(), "nano")
    assert caught.value.status == 400
