from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.models.load import load_model
from mlx_loopai.models.prompt_cache import (
    RecentPrefixes,
    cache_identity,
    compute_prefix,
    read_prefix,
    save_prefix,
    shared_tokens,
)


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


def test_recent_prefixes_go_back_and_stay_within_their_bytes(tiny_model_folder: Path) -> None:
    loaded = load_model(str(tiny_model_folder), "fp32")
    first = compute_prefix(loaded.model, [5, *range(100, 180)])
    n_bytes = sum(layer.nbytes for layer in first.cache)
    recent = RecentPrefixes(2 * n_bytes)
    for start in (5, 6, 7):
        tokens = [start, *range(100, 180)]
        recent.keep(tokens, compute_prefix(loaded.model, tokens).cache, "base")
    assert recent.n_bytes == 2 * n_bytes
    assert recent.prefix([5, *range(100, 180)], "base") is None  # the oldest gave way
    # A prompt that leaves what is known after 71 tokens, and one that is known whole.
    turned = [7, *range(100, 170), 30, 31]
    found = recent.prefix(turned, "base")
    assert found is not None
    assert found.tokens == tuple(turned[:71])
    assert [layer.offset for layer in found.cache] == [71] * len(found.cache)
    known = recent.prefix([7, *range(100, 180)], "base")
    assert known is not None
    assert len(known.tokens) in (79, 80)  # mlx-lm may read one token more
    assert recent.prefix(turned, "first") is None
    assert recent.prefix([7, 100, 1, 2], "base") is None  # too short to be worth a copy
    small = RecentPrefixes(n_bytes - 1)
    small.keep(list(range(100, 180)), first.cache, "base")
    assert small.n_bytes == 0
