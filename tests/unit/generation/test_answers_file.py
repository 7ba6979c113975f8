from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.generation.answers_file import AnswersFile

IDS, KEYS = ["가", "나", "다"], ["k0", "k1", "k2"]


def test_it_grows_and_ends_in_order(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with AnswersFile(path, IDS, KEYS) as file:
        file.add(2, {"text": "셋"})
        file.add(0, {"text": "하나"})
        assert [json.loads(line)["index"] for line in path.read_text(encoding="utf-8").splitlines()] == [2, 0]
    with AnswersFile(path, IDS, KEYS) as file:
        assert sorted(file.done) == [0, 2]
        file.add(1, {"text": "둘\u2028"})
        rows = file.finish()
    assert [row["text"] for row in rows] == ["하나", "둘\u2028", "셋"]
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]] == rows
    with AnswersFile(path, IDS, KEYS) as file:
        assert len(file.done) == 3


@pytest.mark.parametrize("n_torn", range(1, 30, 4))
def test_a_torn_line_is_written_again(tmp_path: Path, n_torn: int) -> None:
    path = tmp_path / "out.jsonl"
    with AnswersFile(path, IDS, KEYS) as file:
        file.add(1, {"text": "둘"})
        file.add(0, {"text": "하나"})
    path.write_bytes(path.read_bytes()[:-n_torn])
    with AnswersFile(path, IDS, KEYS) as file:
        assert sorted(file.done) == [1]
        file.add(0, {"text": "하나"})
        file.add(2, {"text": "셋"})
        assert [row["text"] for row in file.finish()] == ["하나", "둘", "셋"]


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with AnswersFile(path, IDS, KEYS) as file:
        file.add(1, {"text": "둘"})
    kept = path.read_bytes()
    with pytest.raises(InputError, match=r"out\.jsonl:1: was written with other prompts or settings"):
        AnswersFile(path, IDS, ["k0", "other", "k2"])
    with pytest.raises(InputError, match=r"out\.jsonl:1: was written with other"):
        AnswersFile(path, IDS[:1], KEYS[:1])
    assert path.read_bytes() == kept
    for content in ('{"text": "남의 것"}\n', "메모\n", "줄 끝 없는 메모", "[]\n"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match="name another file with `out`"):
            AnswersFile(path, IDS, KEYS)
        assert path.read_text(encoding="utf-8") == content
