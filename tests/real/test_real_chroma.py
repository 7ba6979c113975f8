"""The real Chroma library, in a folder. Needs chromadb: pip install 'mlx-loopai[rag]'."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_loopai.models.embedder import open_embedder
from mlx_loopai.retrieval.index import Vectorising, build_index, open_index

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore")]


def test_the_index_answers_alike_with_chroma_and_without(tmp_path: Path, tiny_model_folder: Path) -> None:
    pytest.importorskip("chromadb")
    files = []
    for number in range(30):
        files.append(tmp_path / f"{number}.txt")
        files[-1].write_text(f"{number}번째 등대에서는 {number * 7}척의 배가 보였다.", encoding="utf-8")
    embedder = open_embedder(str(tiny_model_folder))
    build_index(files, tmp_path / "plain", vectors=Vectorising(embedder))
    for _ in range(2):
        built = build_index(files, tmp_path / "index", vectors=Vectorising(embedder, in_chroma=True))
    assert built.manifest.vectors == "chroma"
    with open_index(tmp_path / "plain") as plain, open_index(tmp_path / "index") as chroma:
        for query in ("7번째 등대", "49척의 배"):
            ours, theirs = plain.search(query, 3), chroma.search(query, 3)
            assert [hit.chunk for hit in ours] == [hit.chunk for hit in theirs]
