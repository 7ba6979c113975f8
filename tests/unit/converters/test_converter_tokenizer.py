from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from converters.readers import open_checkpoint
from converters.tokenizer import choose_tokenizer, tokenizer_files
from mlx_loopai.errors import InputError

Build = Callable[..., Path]


def test_the_models_own_or_another(model_folder: Build, tokenizer_folder: Path) -> None:
    checkpoint = open_checkpoint(model_folder())
    assert {path.parent for path in choose_tokenizer(checkpoint, None, Path())} == {checkpoint.source}
    assert {path.parent for path in choose_tokenizer(checkpoint, tokenizer_folder, Path())} == {tokenizer_folder}


def test_gguf_brings_its_own(gguf_file: Build, tokenizer_folder: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(gguf_file())
    assert {path.parent for path in choose_tokenizer(checkpoint, tokenizer_folder, tmp_path)} == {tokenizer_folder}
    own = choose_tokenizer(checkpoint, None, tmp_path)
    assert {path.name for path in own} == {"tokenizer.json", "tokenizer_config.json"}
    again, wanted = (Tokenizer.from_file(str(path / "tokenizer.json")) for path in (tmp_path, tokenizer_folder))
    assert again.get_vocab() == wanted.get_vocab()
    assert again.encode("<|im_start|>abba<|im_end|>").ids == wanted.encode("<|im_start|>abba<|im_end|>").ids


def test_a_folder_without_a_tokenizer(gguf_file: Build, model_folder: Build, tmp_path: Path) -> None:
    folder = model_folder()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"with `tokenizer` DIR"):
        choose_tokenizer(open_checkpoint(folder), None, tmp_path)
    checkpoint = open_checkpoint(gguf_file())
    with pytest.raises(InputError, match=r"no such folder"):
        choose_tokenizer(checkpoint, tmp_path / "none", Path())
    with pytest.raises(InputError, match=r"holds no tokenizer.json"):
        choose_tokenizer(checkpoint, tmp_path, Path())


def test_a_tokenizer_with_more_ids_than_rows(model_folder: Build, make_tokenizer: Build, tmp_path: Path) -> None:
    folder = make_tokenizer(tmp_path / "large", [f"t{number}" for number in range(33)])
    with pytest.raises(InputError, match=r"token id 32 but the model's embedding has 32 rows"):
        choose_tokenizer(open_checkpoint(model_folder()), folder, Path())


def test_a_tokenizer_with_other_tokens_than_the_gguf(gguf_file: Build, make_tokenizer: Build, tmp_path: Path) -> None:
    folder = make_tokenizer(tmp_path / "other", ["b", "a", "c"])
    with pytest.raises(InputError, match=r"2 of 3 tokens differ .* \(id 0: 'b' here, 'a' there\)"):
        choose_tokenizer(open_checkpoint(gguf_file()), folder, Path())


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": 3}', '{"model": {"vocab": {}}}'])
def test_a_broken_tokenizer(model_folder: Build, content: str) -> None:
    folder = model_folder()
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"tokenizer.json"):
        choose_tokenizer(open_checkpoint(folder), None, Path())


def test_which_files_make_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "vocab.json").write_text("{}")
    assert tokenizer_files(tmp_path) == ()
    (tmp_path / "merges.txt").write_text("")
    (tmp_path / "modeling.py").write_text("")
    assert {path.name for path in tokenizer_files(tmp_path)} == {"tokenizer_config.json", "vocab.json", "merges.txt"}


def test_a_list_of_scored_pieces_counts_as_a_vocabulary(model_folder: Build) -> None:
    folder = model_folder()
    vocabulary = [[f"p{number}", -1.0] for number in range(40)]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "vocab": vocabulary, "unk_id": 0}}))
    with pytest.raises(InputError, match=r"token id 39"):
        choose_tokenizer(open_checkpoint(folder), None, Path())
