from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_loopai.errors import InputError, LoopaiError
from mlx_loopai.memory.sizes import FLOAT_BYTES
from mlx_loopai.models.embedder import INSTRUCTION, Embedder, open_embedder
from mlx_loopai.models.load import default_dtype
from mlx_loopai.retrieval import index as module
from mlx_loopai.retrieval.chroma import Chroma, ChromaDense, server_address
from mlx_loopai.retrieval.chunks import Chunk
from mlx_loopai.retrieval.dense import Dense
from mlx_loopai.retrieval.index import Hit, Vectorising, build_index, open_index
from mlx_loopai.retrieval.store import MANIFEST

TEXTS = ("등대지기는 밤마다 불을 켠다.", "고양이가 지붕 위에서 잔다.", "배들은 불빛을 따라 돌아온다.")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    return [tmp_path / f"{number}.txt" for number in range(len(TEXTS))]


@pytest.fixture(scope="module")
def embedder(tiny_model_folder: Path) -> Embedder:
    return open_embedder(str(tiny_model_folder))


def search(folder: Path, query: str) -> list[Hit]:
    with open_index(folder) as opened:
        return opened.search(query, 3)


def test_an_embedder_tells_the_bytes_of_its_weights(embedder: Embedder, tiny_model_folder: Path) -> None:
    stored = mx.load(str(tiny_model_folder / "model.safetensors"))
    assert isinstance(stored, dict)
    n_numbers = sum(array.size for array in stored.values())
    assert embedder.weight_bytes == FLOAT_BYTES[default_dtype()] * n_numbers


def test_a_decoder_gives_unit_vectors_of_the_last_token(embedder: Embedder) -> None:
    vectors = embedder.passages(TEXTS)
    assert vectors.shape == (3, 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    # Alone or in a batch of texts of other lengths, a text has the same vector.
    for text, vector in zip(TEXTS, vectors, strict=True):
        np.testing.assert_allclose(embedder.passages([text])[0], vector, atol=1e-5)
    assert embedder.encode("가")[-1] == 0  # <|endoftext|> of the tiny tokenizer
    np.testing.assert_allclose(embedder.query(TEXTS[0]), embedder.passages([INSTRUCTION + TEXTS[0]])[0], atol=1e-6)
    assert len(embedder.encode("긴 글 " * 2000)) == 1024


def test_cosines_order_the_passages() -> None:
    vectors = np.eye(4, dtype=np.float32)
    found = Dense(vectors, lambda text: np.array([0.1, 0.9, 0.0, 0.4], np.float32)).retrieve("", 3)
    assert [hit.number for hit in found] == [1, 3, 0]
    assert found[0].score == pytest.approx(0.9)
    vectors[1] = np.nan
    assert Dense(vectors, lambda text: np.ones(4, np.float32)).retrieve("", 2)[0].number == 0


def test_an_index_with_vectors_fuses_both(files: list[Path], tmp_path: Path, embedder: Embedder) -> None:
    built = build_index(files, tmp_path / "index", vectors=Vectorising(embedder))
    assert (built.manifest.vectors, built.manifest.passages) == ("file", 3)
    hits = search(tmp_path / "index", "고양이")
    assert len(hits) == 3
    by_file = {hit.chunk.file: hit for hit in hits}
    cat = by_file[str(files[1])]
    assert cat.ranks["bm25"] == 1
    assert cat.score == pytest.approx(1 / 61 + 1 / (60 + cat.ranks["dense"]))
    assert set(by_file[str(files[0])].ranks) == {"dense"}


def test_only_new_passages_are_embedded_again(files: list[Path], tmp_path: Path, embedder: Embedder) -> None:
    embedded: list[str] = []

    def counted(text: str) -> list[int]:
        embedded.append(text)
        return embedder.encode(text)

    counting = Vectorising(Embedder(**{**vars(embedder), "encode": counted}))
    build_index(files, tmp_path / "index", vectors=counting)
    assert sorted(embedded) == sorted(TEXTS)
    embedded.clear()
    files[0].write_text("새 글이 하나 생겼다.", encoding="utf-8")
    build_index(files, tmp_path / "index", vectors=counting)
    assert embedded == ["새 글이 하나 생겼다."]
    build_index(files, tmp_path / "anew", vectors=counting)
    assert search(tmp_path / "index", "불빛") == search(tmp_path / "anew", "불빛")
    # Vectors of another model are of no use.
    embedded.clear()
    other = Vectorising(Embedder(**{**vars(counting.embedder), "base_hash": "another"}))
    build_index(files, tmp_path / "index", vectors=other)
    assert len(embedded) == 3
    with pytest.raises(InputError, match="is not the model that made the vectors"):
        search(tmp_path / "index", "불빛")


def test_forged_vectors_are_refused(files: list[Path], tmp_path: Path, embedder: Embedder) -> None:
    index = tmp_path / "index"
    build_index(files, index, vectors=Vectorising(embedder))
    manifest = json.loads((index / MANIFEST).read_text(encoding="utf-8"))
    forged = [
        {"embedder": {**manifest["embedder"], "dims": 16}},
        {"embedder": {**manifest["embedder"], "dims": 0}},
        {"files": {name: file for name, file in manifest["files"].items() if name != "vectors.npy"}},
    ]
    for change in forged:
        (index / MANIFEST).write_text(json.dumps({**manifest, **change}), encoding="utf-8")
        with pytest.raises(InputError):
            search(index, "불빛")


class FakeCollection:
    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: dict[str, tuple[list[float], str, dict[str, Any]]] = {}

    def add(self, ids: list[str], embeddings: list[list[float]], documents: list[str], metadatas: list[Any]) -> None:
        self.rows |= dict(zip(ids, zip(embeddings, documents, metadatas, strict=True), strict=True))

    def get(self, ids: list[str], include: list[str]) -> dict[str, Any]:
        known = [id_ for id_ in ids if id_ in self.rows]
        return {"ids": known, "embeddings": [self.rows[id_][0] for id_ in known]}

    def query(self, query_embeddings: list[list[float]], n_results: int, include: list[str]) -> dict[str, Any]:
        distances = [(1 - float(np.dot(row[0], query_embeddings[0])), row[2]) for row in self.rows.values()]
        best = sorted(distances, key=lambda pair: pair[0])[:n_results]
        return {"distances": [[distance for distance, _ in best]], "metadatas": [[row for _, row in best]]}


class FakeClient:
    """What is used of chromadb's client."""

    def __init__(self) -> None:
        self.collections: dict[str, FakeCollection] = {}

    def get_max_batch_size(self) -> int:
        return 2

    def create_collection(self, name: str, metadata: dict[str, str]) -> FakeCollection:
        assert metadata == {"hnsw:space": "cosine"}
        return self.collections.setdefault(name, FakeCollection(name))

    def list_collections(self) -> list[FakeCollection]:
        return list(self.collections.values())

    def get_collection(self, name: str) -> FakeCollection:
        return self.collections[name]

    def delete_collection(self, name: str) -> None:
        del self.collections[name]


def test_vectors_in_chroma_give_the_same_answers(
    files: list[Path], tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, asked = FakeClient(), []

    def fake_chroma(index: Path, url: str | None) -> Chroma:
        asked.append(url)
        return Chroma(client, "chroma" if url is None else "chroma-server", "here")

    monkeypatch.setattr(module, "open_chroma", fake_chroma)
    build_index(files, tmp_path / "plain", vectors=Vectorising(embedder))
    vectors = Vectorising(embedder, in_chroma=True, chroma_url="http://localhost:8000")
    for _ in range(2):  # the second takes its vectors from the first's collection
        built = build_index(files, tmp_path / "index", vectors=vectors)
    assert built.manifest.vectors == "chroma-server"
    assert list(client.collections) == [f"mlx-loopai-{built.manifest.data}"]
    with pytest.raises(InputError, match="`chroma_url`"), open_index(tmp_path / "index"):
        pass
    with open_index(tmp_path / "index", "http://localhost:8000") as opened:
        found = opened.search("고양이", 3)
    assert set(asked) == {"http://localhost:8000"}
    for ours, theirs in zip(search(tmp_path / "plain", "고양이"), found, strict=True):
        assert (ours.chunk, ours.ranks) == (theirs.chunk, theirs.ranks)


def test_a_server_that_answers_nonsense_is_refused() -> None:
    client = FakeClient()
    chroma = Chroma(client, "chroma-server", "http://there")
    chroma.write("data", [Chunk("a", "a.txt", 1, "가")], np.ones((1, 2), np.float32))
    (row,) = client.collections["mlx-loopai-data"].rows.values()
    row[2]["passage"] = 7
    with pytest.raises(InputError, match="http://there: its collection"):
        ChromaDense(chroma, "data", 1, lambda text: np.ones(2, np.float32)).retrieve("", 1)
    with pytest.raises(LoopaiError, match="http://there: Chroma failed"):
        chroma.find("missing", np.ones(2, np.float32), 1, 1)
    chroma.drop("missing")


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://a", "http://", "http://a:b", "http://a/path", "http://a:99999"]
)
def test_addresses(url: str) -> None:
    assert server_address("http://localhost") == ("localhost", 8000, False)
    assert server_address("https://db.example.org:8443/") == ("db.example.org", 8443, True)
    with pytest.raises(InputError, match="`chroma_url`"):
        server_address(url)


def test_a_model_that_is_no_embedder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        open_embedder(str(tmp_path / "missing"))
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}', encoding="utf-8")
    with pytest.raises(InputError, match="vocab_size"):
        open_embedder(str(tmp_path))
