from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.retrieval.index import Index, open_index
from tests.unit.cli.conftest import Ended

SEA = "등대지기는 밤마다 불을 켠다."


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    (tmp_path / "sea.txt").write_text(f"첫 줄이다.\n\n{SEA}\n\n끝 줄이다.", encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text('{"text": "고양이가 지붕 위에서 잔다."}\n', encoding="utf-8")
    return [tmp_path / "sea.txt", tmp_path / "rows.jsonl"]


@pytest.fixture
def index(files: list[Path], tmp_path: Path, command_line: Callable[..., Ended]) -> Path:
    assert command_line("rag", "build", *files, "--index", tmp_path / "index", "--quiet").status == 0
    return tmp_path / "index"


def document(ended: Ended) -> dict[str, Any]:
    assert (ended.status, ended.stderr) == (0, "")
    return json.loads(ended.stdout)


def test_build_and_search(files: list[Path], index: Path, command_line: Callable[..., Ended]) -> None:
    built = document(command_line("rag", "build", *files, "--index", index, "--json", "--quiet"))
    assert (built["files"], built["files_reused"], built["passages"], built["duplicates"]) == (2, 2, 2, 0)
    found = document(command_line("rag", "search", "등대지기", "--index", index, "--top", "1", "--json"))
    assert found["retriever"] == "bm25"
    (hit,) = found["results"]
    assert (hit["file"], hit["line"], hit["ranks"]) == (str(files[0]), 1, {"bm25": 1})
    assert SEA in hit["text"]
    assert hit["score"] > 0
    assert len(hit["chunk"]) == 16
    shown = command_line("rag", "search", "등대지기", "--index", index)
    assert shown.stdout.startswith(f"{files[0]}:1  ")
    assert command_line("rag", "search", "xyz", "--index", index).stdout == "nothing found\n"


def test_generate_cites_what_it_was_shown(
    index: Path, files: list[Path], tiny_model_folder: Path, command_line: Callable[..., Ended]
) -> None:
    asked = ("generate", "등대지기?", "--model", tiny_model_folder, "--max-tokens", "4", "--json", "--quiet")
    plain = document(command_line(*asked))
    assert plain["sources"] == []
    shown = document(command_line(*asked, "--rag", index, "--rag-top", "1"))
    (source,) = shown["sources"]
    assert set(source) == {"file", "line", "score", "chunk", "text"}
    assert (source["file"], source["line"]) == (str(files[0]), 1)
    assert shown["prompt_tokens"] > plain["prompt_tokens"] + 10


def test_search_and_generate_name_the_chroma_server(
    index: Path, tiny_model_folder: Path, command_line: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def recorded(folder: Path, chroma_url: str | None) -> AbstractContextManager[Index]:
        asked.append(chroma_url)
        return open_index(folder)

    monkeypatch.setattr("mlx_loopai.retrieval.index.open_index", recorded)
    monkeypatch.setenv("MLX_LOOPAI_CHROMA_URL", "http://here:8000")
    for given in ((), ("--chroma-url", "http://there:8000")):
        command_line("rag", "search", "등대", "--index", index, *given)
        command_line("generate", "등대?", "--model", tiny_model_folder, "--max-tokens", "1", "--rag", index, *given)
    assert asked == ["http://here:8000"] * 2 + ["http://there:8000"] * 2


def test_a_file_of_prompts_cites_by_row(
    index: Path, tmp_path: Path, tiny_model_folder: Path, command_line: Callable[..., Ended]
) -> None:
    (tmp_path / "p.txt").write_text("고양이?\nxyz\n", encoding="utf-8")
    asked = ("generate", "--prompts", tmp_path / "p.txt", "--model", tiny_model_folder, "--max-tokens", "4")
    rows = document(command_line(*asked, "--rag", index, "--json", "--quiet"))["results"]
    assert [row["prompt"] for row in rows] == ["고양이?", "xyz"]
    assert [len(row["sources"]) for row in rows] == [1, 0]
    assert rows[0]["sources"][0]["file"].endswith("rows.jsonl")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("rag", "search", "등대", "--index", "missing"), "--index missing: no such folder"),
        (("rag", "search", " ", "--index", "missing"), "the query is empty"),
        (("rag", "build", "missing.txt", "--index", "new"), "missing.txt: No such file"),
        (("rag", "build", "--index", "new"), "FILES"),
        (("generate", "등대", "--rag", "missing"), "missing: no such folder"),
    ],
)
def test_errors_are_one_line(
    arguments: tuple[str, ...],
    reason: str,
    command_line: Callable[..., Ended],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command_line(*arguments)
    assert (ended.status, ended.stdout) == (2, "")
    assert reason in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_damaged_index_is_made_anew_and_said(
    files: list[Path], index: Path, command_line: Callable[..., Ended]
) -> None:
    (index / "index.json").write_text("{}", encoding="utf-8")
    assert "anew" in command_line("rag", "search", "등대", "--index", index).stderr
    ended = command_line("rag", "build", *files, "--index", index)
    assert ended.status == 0
    assert "is not used" in ended.stderr
    assert command_line("rag", "search", "등대", "--index", index).status == 0


def test_an_index_with_vectors(
    files: list[Path], tmp_path: Path, tiny_model_folder: Path, command_line: Callable[..., Ended]
) -> None:
    index = tmp_path / "vectors"
    asked = ("rag", "build", *files, "--index", index)
    built = document(command_line(*asked, "--embedder", tiny_model_folder, "--json", "--quiet"))
    assert (built["embedder"], built["vectors"]) == (str(tiny_model_folder.resolve()), "file")
    found = document(command_line("rag", "search", "고양이", "--index", index, "--json"))
    assert found["retriever"] == "bm25+dense"
    assert [set(hit["ranks"]) for hit in found["results"]] == [{"bm25", "dense"}, {"dense"}]
    assert "--embedder MODEL" in command_line(*asked, "--chroma").stderr
