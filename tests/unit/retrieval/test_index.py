from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.retrieval import index as module
from mlx_loopai.retrieval.index import Hit, build_index, open_index
from mlx_loopai.retrieval.store import MANIFEST, Manifest, read_manifest

TEXTS = {
    "sea.txt": "등대지기는 밤마다 불을 켠다.\n\n배들은 그 불빛을 따라 돌아온다.",
    "cat.txt": "고양이가 지붕 위에서 잔다.\n\n등대지기는 밤마다 불을 켠다!",
}


def search(folder: Path, query: str, top: int = 3) -> list[Hit]:
    with open_index(folder) as opened:
        return opened.search(query, top)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return [tmp_path / name for name in TEXTS]


@pytest.fixture
def folder(files: list[Path], tmp_path: Path) -> Path:
    build_index(files, tmp_path / "index", 20)
    return tmp_path / "index"


def test_a_passage_is_found_where_it_stands(files: list[Path], folder: Path) -> None:
    first, *_ = search(folder, "고양이는 어디에서 자나?")
    assert (first.chunk.file, first.chunk.line, first.chunk.text) == (str(files[1]), 1, "고양이가 지붕 위에서 잔다.")
    assert search(folder, "xyz") == []


def test_equal_passages_are_kept_once(files: list[Path], folder: Path) -> None:
    manifest = read_manifest(folder)
    assert (manifest.passages, manifest.duplicates) == (3, 1)
    found = [hit for hit in search(folder, "등대지기") if "등대지기" in hit.chunk.text]
    assert [hit.chunk.file for hit in found] == [str(files[0])]
    # When the file with the first of them goes, the other takes its place.
    build_index(files[1:], folder, 20)
    assert [hit.chunk.file for hit in search(folder, "등대지기")] == [str(files[1])]


def test_only_changed_files_are_read_again(files: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenised: list[str] = []

    def counted(text: str) -> np.ndarray:
        tokenised.append(text)
        return real(text)

    real = module.text_terms
    monkeypatch.setattr(module, "text_terms", counted)
    before = search(folder, "불빛")
    built = build_index(files, folder, 20)
    assert (built.files, built.reused, tokenised) == (2, 2, [])
    assert search(folder, "불빛") == before
    files[1].write_text("새로 쓴 고양이 글이다.", encoding="utf-8")
    built = build_index(files, folder, 20)
    assert (built.reused, tokenised) == (1, ["새로 쓴 고양이 글이다."])
    assert search(folder, "고양이")[0].chunk.text == "새로 쓴 고양이 글이다."
    # A renamed file is the same text; another length of passages is not.
    moved = files[1].rename(files[1].with_name("moved.txt"))
    assert build_index([files[0], moved], folder, 20).reused == 2
    assert search(folder, "고양이")[0].chunk.file == str(moved)
    assert build_index([files[0], moved], folder, 50).reused == 0


def test_an_index_built_again_equals_one_built_anew(files: list[Path], folder: Path, tmp_path: Path) -> None:
    files[0].write_text(f"{TEXTS['sea.txt']}\n\n물고기가 뛰었다.", encoding="utf-8")
    build_index(files, folder, 20)
    build_index(files, tmp_path / "anew", 20)
    for query in ("물고기", "등대", "밤마다 불빛"):
        assert search(folder, query) == search(tmp_path / "anew", query)
    assert len(list(folder.glob("data-*"))) == 1


def test_a_build_that_fails_leaves_the_index(files: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = search(folder, "등대")
    with pytest.raises(InputError, match="no such file|No such file"):
        build_index([*files, folder / "missing.txt"], folder, 20)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.np, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        build_index(files, folder, 30)
    assert search(folder, "등대") == before
    assert len(list(folder.glob("data-*"))) == 1


def test_a_first_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("…!?", encoding="utf-8")
    with pytest.raises(InputError, match="no text to index"):
        build_index([tmp_path / "a.txt"], tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_a_folder_of_other_things_is_refused(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds other files"):
        build_index(files, tmp_path)
    with pytest.raises(InputError, match="is a file"):
        build_index(files, files[0])
    with pytest.raises(InputError, match="no index here"):
        search(tmp_path, "등대")


@pytest.mark.parametrize("is_new", [False, True])
def test_two_builds_at_once_are_kept_apart(files: list[Path], folder: Path, tmp_path: Path, is_new: bool) -> None:
    if is_new:
        folder = tmp_path / "new"
        folder.mkdir()
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(InputError, match="another process"):
            build_index(files, folder)
        assert folder.is_dir(), "the other process has not written into it yet"
    finally:
        os.close(handle)


def test_an_index_that_is_built_anew_meanwhile_is_opened(
    files: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """127 of 6,100 opens failed: the manifest was read, and its files were gone."""
    real, builds = module.check_files, iter(range(3))

    def late(folder: Path, manifest: Manifest) -> Path:
        if next(builds, None) is not None:
            files[1].write_text(f"고양이가 지붕 위에서 {manifest.data} 잔다.", encoding="utf-8")
            monkeypatch.setattr(module, "check_files", real)
            build_index(files, folder, 20)
            monkeypatch.setattr(module, "check_files", late)
        return real(folder, manifest)

    monkeypatch.setattr(module, "check_files", late)
    with open_index(folder) as opened:
        found, *_ = opened.search("고양이는 어디에서 자나?", 1)
        build_index(files[:1], folder, 20)
        assert opened.search("고양이는 어디에서 자나?", 1) == [found]
    assert found.chunk.file == str(files[1])


def test_a_damaged_index_is_refused_and_built_anew(files: list[Path], folder: Path) -> None:
    weights = folder / read_manifest(folder).data / "weights.npy"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match="checksum"):
        search(folder, "등대")
    said: list[str] = []
    assert build_index(files, folder, 20, on_damage=said.append).reused == 0
    assert "checksum" in said[0]
    assert search(folder, "등대")


def rewritten(folder: Path, name: str) -> None:
    """Give a changed file the checksum that a forger would."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    content = (folder / manifest["data"] / name).read_bytes()
    manifest["files"][name] = {"n_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def array_of_objects(data: Path) -> str:
    np.save(data / "weights.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return "weights.npy"


def array_of_another_type(data: Path) -> str:
    np.save(data / "weights.npy", np.zeros(3, np.float64))
    return "weights.npy"


def huge_header(data: Path) -> str:
    (data / "terms.npy").write_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{")
    return "terms.npy"


def no_array(data: Path) -> str:
    (data / "terms.npy").write_bytes(b"")
    return "terms.npy"


def passages_outside(data: Path) -> str:
    passages = np.load(data / "passages.npy")
    np.save(data / "passages.npy", passages + 2**30)
    return "passages.npy"


def statement(sql: str) -> Callable[[Path], str]:
    def run(data: Path) -> str:
        with sqlite3.connect(data / "chunks.sqlite") as connection:
            connection.executescript(sql)
        connection.close()
        return "chunks.sqlite"

    run.__name__ = sql.split("(")[0]
    return run


def no_database(data: Path) -> str:
    (data / "chunks.sqlite").write_bytes(b"SQLite format 3\x00" + bytes(4096))
    return "chunks.sqlite"


@pytest.mark.parametrize(
    "forge",
    [
        array_of_objects,
        array_of_another_type,
        huge_header,
        no_array,
        passages_outside,
        no_database,
        statement("CREATE TRIGGER t AFTER INSERT ON chunks BEGIN SELECT 1; END"),
        statement("CREATE VIEW v AS SELECT load_extension('evil')"),
        statement("ALTER TABLE chunks RENAME TO c; CREATE VIEW chunks AS SELECT * FROM c"),
        statement("UPDATE chunks SET passage = passage + 1"),
        statement("UPDATE chunks SET text = x'ff00', line = 'nine'"),
        statement("DELETE FROM files"),
        statement("DELETE FROM chunks WHERE passage = 2"),
    ],
)
def test_forged_files_are_refused(folder: Path, forge: Callable[[Path], str]) -> None:
    rewritten(folder, forge(folder / read_manifest(folder).data))
    with pytest.raises(InputError, match="build"):
        search(folder, "등대지기")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"format": "another"},
        {"data": "../elsewhere"},
        {"data": "data-../../../../tmp"},
        {"files": {"../x.npy": {"n_bytes": 1, "sha256": "0"}}},
        {"files": {}},
        {"passages": 0},
        {"passages": 99},
        {"more": 1},
    ],
)
def test_forged_manifests_are_refused(folder: Path, change: dict[str, object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    (folder / MANIFEST).write_text(json.dumps({**manifest, **change}), encoding="utf-8")
    with pytest.raises(InputError, match="build it anew|build the index anew"):
        search(folder, "등대지기")


@pytest.mark.parametrize(
    "content", ["", "[]", "null", "{", "[" * 100_000, '{"version": ' + "9" * 5000 + "}", "x" * (2 << 20)]
)
def test_broken_manifests_are_refused(folder: Path, content: str) -> None:
    (folder / MANIFEST).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="anew"):
        search(folder, "등대지기")


def test_changed_bytes_never_crash(folder: Path) -> None:
    """Damage anywhere, with a checksum that fits: an error in one line, or passages all the same."""
    generator = np.random.default_rng(0)
    data = folder / read_manifest(folder).data
    originals = {path: path.read_bytes() for path in data.iterdir()}
    for _ in range(40):
        path = sorted(originals)[generator.integers(len(originals))]
        content = bytearray(originals[path])
        for place in generator.integers(0, len(content), 3):
            content[place] = generator.integers(256)
        path.write_bytes(content[: generator.integers(1, len(content) + 1)] if generator.random() < 0.3 else content)
        rewritten(folder, path.name)
        try:
            search(folder, "등대지기")
        except InputError as error:
            assert "\n" not in str(error)
        path.write_bytes(originals[path])
        rewritten(folder, path.name)


def test_an_index_can_be_moved(folder: Path, tmp_path: Path) -> None:
    before = search(folder, "고양이")
    odd = tmp_path / "한 글?#%20"
    shutil.move(folder, odd)
    assert search(odd, "고양이") == before


def test_a_full_disk_is_said_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(sqlite3.Connection):
        def executemany(self, *_: object) -> sqlite3.Cursor:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path: connect(path, factory=Full))
    source = tmp_path / "a.txt"
    source.write_text("바람이 분다.", encoding="utf-8")
    with pytest.raises(OSError, match="No space") as caught:
        build_index([source], tmp_path / "index")
    assert caught.value.errno == errno.ENOSPC
    assert not any((tmp_path / "index").glob("data*"))
