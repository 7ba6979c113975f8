from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.models.load import load_model
from mlx_loopai.models.prompt_cache import cache_identity, compute_prefix, read_prefix, save_prefix, shared_tokens


def test_shared_tokens() -> None:
    assert shared_tokens([[1, 2, 3, 4], [1, 2, 5]]) == (1, 2)
    # The last token of the shortest prompt is left to read.
    assert shared_tokens([[1, 2], [1, 2, 3]]) == (1,)
    assert shared_tokens([[1], [2]]) == ()
    assert shared_tokens([[4, 5, 6]]) == (4, 5)


def test_stored_and_read_again(tiny_model_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(str(tiny_model_folder), "fp32")
    identity = cache_identity(loaded.model, loaded.base_hash, None)
    prefix = compute_prefix(loaded.model, range(5, 30))
    path = tmp_path / "few.safetensors"
    save_prefix(path, prefix, identity)
    found = read_prefix(path, identity, range(5, 30))
    assert not isinstance(found, str)
    for own, stored in zip(prefix.cache, found.cache, strict=True):
        assert own.offset == stored.offset == 25
        assert mx.array_equal(own.keys_and_values()[0], stored.keys_and_values()[0]).item()
    assert "begin otherwise" in str(read_prefix(path, identity, range(5, 31)))
    assert "another base" in str(read_prefix(path, {**identity, "base": "x"}, range(5, 30)))
    assert "adapter and dtype" in str(
        read_prefix(path, {"adapter": "x", "dtype": "bfloat16", "base": identity["base"]}, range(5, 30))
    )


def test_files_that_are_no_prompt_cache(tmp_path: Path) -> None:
    broken, other = tmp_path / "broken.safetensors", tmp_path / "other.safetensors"
    broken.write_bytes(b"no safetensors")
    mx.save_safetensors(str(other), {"weight": mx.zeros(3)})
    for path in (broken, other):
        with pytest.raises(InputError, match="not a prompt cache of this program"):
            read_prefix(path, {}, [1])
