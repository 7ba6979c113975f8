"""Tokens of large sources lie on the disk: the same rows as in memory, found again, refused when damaged, bounded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from mlx_loopai.config import RunConfig
from mlx_loopai.data import rows as data_rows
from mlx_loopai.data import token_cache
from mlx_loopai.data.byte_pairs import BytePairs
from mlx_loopai.data.chosen_rows import ChosenRows, Column, column_of, digests_of
from mlx_loopai.data.learnt import RowForm
from mlx_loopai.data.row_file import RowFile
from mlx_loopai.data.row_identity import Digest, row_digest, rows_digest
from mlx_loopai.data.rows import RowReader, Rows, WantedRows
from mlx_loopai.errors import InputError
from mlx_loopai.models.load import NANO_FOLDER, load_tokenizer

TOKENIZER = load_tokenizer(NANO_FOLDER)


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(data_rows, "LONG_BYTES", 0)
    monkeypatch.setenv("MLX_LOOPAI_CACHE", str(tmp_path / "cache"))


def written(path: Path, count: int = 12, **more: object) -> Path:
    lines = [
        {"prompt": f"{number}번째 이야기", "completion": f"{number}개의 별이 떴다." * 3} | more
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def read(path: Path, **settings: object) -> Rows:
    config = RunConfig.model_validate({"sources": {"own": {"path": str(path)}}} | settings)
    wanted = WantedRows(
        sources=config.sources,
        validation=config.validation,
        validation_share=config.validation_share,
        preference=config.preference,
        form=RowForm(config.system_prompt, config.train.max_tokens),
    )
    return RowReader(TOKENIZER).rows(wanted)


def kept() -> list[Path]:
    return sorted(token_cache.token_folder().glob("*.rows"))


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_rows_on_the_disk_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    path = written(tmp_path / "rows.jsonl", mood="calm")
    found = read(path, validation_share=share)
    again = read(path, validation_share=share)
    assert len(kept()) == 1
    monkeypatch.setattr(data_rows, "LONG_BYTES", 1 << 30)
    expected = read(path, validation_share=share)
    for one in (found, again):
        assert (one.digest, one.notices, [*one.lengths]) == (expected.digest, expected.notices, [*expected.lengths])
        assert [row.origin for row in one.sources["own"]] == [row.origin for row in expected.sources["own"]]
        assert rows_digest(one.fixed) == rows_digest(expected.fixed)
        assert rows_digest(one.held_out) == rows_digest(expected.held_out)
        assert list(digests_of(one.sources["own"])) == [row_digest(row) for row in expected.sources["own"]]
    assert "mood" in found.notices[0]


@pytest.mark.parametrize("places", [[1, 4, 5, 11], [4, 1, 11, 5], [3, 3], []])
@pytest.mark.parametrize("kind", get_args(Digest))
def test_hashes_of_chosen_rows_are_theirs(tmp_path: Path, places: list[int], kind: Digest) -> None:
    rows = read(written(tmp_path / "rows.jsonl")).sources["own"]
    chosen = ChosenRows([rows], np.array(places, np.int32))
    assert list(digests_of(chosen, kind)) == list(digests_of([rows[place] for place in places], kind))


def test_pairs_and_labels_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    pair = {"prompt": "이야기", "chosen": "긴 이야기를 들려 드릴게요.", "rejected": "싫어요."}
    path.write_text(json.dumps(pair) + "\n" + json.dumps({"prompt": "시", "completion": "별 하나", "label": False}))
    options = {"preference": {"objective": "kto"}}
    rows = read(path, **options).sources["own"]
    assert isinstance(kept_part := rows, RowFile | ChosenRows)
    assert kept_part.column("rejected").astype(bool).tolist() == [True, False]
    for name in get_args(Column):
        assert kept_part.column(name).tolist() == column_of([*rows], name).tolist()
    assert [(row.good, row.rejected is None) for row in rows] == [(None, False), (False, True)]


@pytest.mark.parametrize(
    "change",
    [
        {"system_prompt": "짧게 답하세요."},
        {"train": {"max_tokens": 50}},
        {"sources": {"own": {"path": "", "allow_special": True}}},
    ],
)
def test_another_option_is_another_file(tmp_path: Path, change: dict[str, dict[str, dict[str, object]]]) -> None:
    path = written(tmp_path / "rows.jsonl")
    read(path)
    if "sources" in change:
        change = {"sources": {"own": change["sources"]["own"] | {"path": str(path)}}}
    read(path, **change)
    written(path, count=13)
    assert len(read(path).sources["own"]) == 13
    assert len(kept()) == 3


def test_a_damaged_file_is_named_and_made_anew(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl")
    before = read(path).digest
    (file,) = kept()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    after = read(path)
    assert [notice for notice in after.notices if str(file) in notice]
    assert after.digest == before
    assert read(path).notices == ()


def test_a_run_holds_its_file_though_it_is_deleted(tmp_path: Path) -> None:
    rows = read(written(tmp_path / "rows.jsonl"))
    (file,) = kept()
    file.unlink()
    assert rows.sources["own"][3].origin.endswith("rows.jsonl:4")


def test_the_least_recently_used_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [written(tmp_path / f"{name}.jsonl", count=number) for number, name in enumerate("abc", start=5)]
    files = []
    for number, path in enumerate(paths[:2]):
        read(path)
        (new,) = set(kept()) - set(files)
        os.utime(new, (number, number))
        files.append(new)
    read(paths[0])  # used again
    monkeypatch.setattr(token_cache, "MOST_BYTES", files[0].stat().st_size * 3)
    read(paths[2])
    assert files[0] in kept()
    assert files[1] not in kept()
    assert len(list(token_cache.token_folder().iterdir())) == 2 * len(kept())


def test_nothing_is_kept_of_what_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl")
    with path.open("a") as file:
        file.write('{"prompt": "x"}\n[1]\n')
    with pytest.raises(InputError, match=r"rows.jsonl:13: .*; .*rows.jsonl:14"):
        read(path)
    assert not list(token_cache.token_folder().iterdir())
    skipping = read(path, sources={"own": {"path": str(path), "skip_bad": True}})
    assert len(skipping.sources["own"]) == 12
    assert "line 13" in skipping.notices[0]


def test_rows_of_a_very_large_file_are_the_same_and_encoded_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, used = written(tmp_path / "rows.jsonl"), []
    texts = ["옛날 <|im_end|> 이야기 é\n", "  숲 \U0001f642 끝.", "<think>음</think> 그래"]
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps({"prompt": text, "completion": text}) + "\n" for text in texts)
    slow = read(path)
    monkeypatch.setattr(token_cache, "_HASTENED_BYTES", 0)
    monkeypatch.setattr(token_cache, "tokenizer_digest", lambda tokenizer: "another file in the cache")
    ids = BytePairs.ids
    monkeypatch.setattr(BytePairs, "ids", lambda *given: used.append(1) or ids(*given))
    hastened = read(path)
    assert used
    assert hastened.digest == slow.digest
    assert not hastened.notices


def test_other_tokens_of_the_faster_tokenizer_are_not_used_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "rows.jsonl")
    slow = read(path)
    monkeypatch.setattr(token_cache, "_HASTENED_BYTES", 0)
    monkeypatch.setattr(token_cache, "tokenizer_digest", lambda tokenizer: "another file in the cache")
    monkeypatch.setattr("tiktoken.Encoding.encode_ordinary", lambda *given: [7])
    hastened = read(path)
    assert hastened.digest == slow.digest
    assert any("tiktoken gave other tokens" in notice for notice in hastened.notices)
