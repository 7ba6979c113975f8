"""A forward pass whose matrices are read from their files when they are needed and dropped at once.

mlx-lm's own model class computes; only its linear layers and its embedding are replaced, so any architecture runs in
the memory of one block of one matrix, whatever the model's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx_loopai  # noqa: F401  # before mlx: on Linux it loads the fast BLAS

# isort: split
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from converters.tensors import Checkpoint, TensorEntry, to_float32
from mlx_loopai.errors import LoopaiError
from mlx_loopai.language import tr
from mlx_loopai.models.load import build_model


class _StreamedLinear(nn.Module):
    """x (..., D_in) -> (..., D_out), a block of rows of the weight at a time, in float32."""

    def __init__(self, weight: TensorEntry, bias: mx.array | None) -> None:
        super().__init__()
        self._weight, self._bias = weight, bias

    def __call__(self, x: mx.array) -> mx.array:
        parts = []
        for start, stop in self._weight.spans():
            rows = mx.array(to_float32(self._weight.read_rows(start, stop), self._weight.dtype))
            parts.append(x @ rows.T)
            mx.eval(parts[-1])
            del rows
        mx.clear_cache()
        out = mx.concatenate(parts, axis=-1)
        return out if self._bias is None else out + self._bias


class _StreamedEmbedding(nn.Module):
    """Token ids (B, T) -> (B, T, D); `as_linear` is the tied head."""

    def __init__(self, weight: TensorEntry) -> None:
        super().__init__()
        self._weight = weight
        self.as_linear = _StreamedLinear(weight, None)

    def __call__(self, ids: mx.array) -> mx.array:
        numbers = np.array(ids)
        rows = [to_float32(self._weight.read_rows(int(n), int(n) + 1), self._weight.dtype) for n in numbers.flat]
        return mx.array(np.concatenate(rows).reshape(*numbers.shape, -1))


class _StreamedExperts(nn.Module):
    """x (..., 1, D_in) and the number of its expert for each row -> (..., 1, D_out), an expert at a time, in float32.

    As mlx-lm's SwitchLinear: `x` is repeated where a token has several experts.
    """

    def __init__(self, weight: TensorEntry) -> None:
        super().__init__()
        self._weight = weight

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        numbers = np.array(indices)
        rows = np.array(mx.broadcast_to(x, (*numbers.shape, *x.shape[-2:]))).reshape(numbers.size, -1)
        _, size, _ = self._weight.shape
        found = np.zeros((numbers.size, size), np.float32)
        for number in np.unique(numbers):
            chosen = numbers.ravel() == number
            expert = self._weight.read_rows(int(number) * size, (int(number) + 1) * size)
            found[chosen] = rows[chosen] @ to_float32(expert, self._weight.dtype).T
        return mx.array(found.reshape(*numbers.shape, 1, size))


def _whole(entry: TensorEntry) -> mx.array:
    return mx.array(to_float32(entry.load(), entry.dtype))


def _streamed(module: nn.Module, weight: TensorEntry, bias: mx.array | None) -> nn.Module:
    if isinstance(module, nn.Embedding):
        return _StreamedEmbedding(weight)
    return _StreamedExperts(weight) if len(weight.shape) == 3 else _StreamedLinear(weight, bias)


def _in_mlx(model: nn.Module, entries: Sequence[TensorEntry]) -> tuple[dict[str, TensorEntry], dict[str, mx.array]]:
    """(the matrices, which stay on disk; the small tensors' values), under the names that mlx-lm's model has for them.

    The model's own `sanitize` renames them and converts values; in place of a matrix it gets a stand-in.
    """
    small = {entry.name: _whole(entry) for entry in entries if not entry.is_matrix}
    stand_ins = {entry.name: mx.zeros((1, 1)) for entry in entries if entry.is_matrix}
    matrices = {id(stand_ins[entry.name]): entry for entry in entries if entry.name in stand_ins}
    found = model.sanitize(small | stand_ins) if hasattr(model, "sanitize") else small | stand_ins
    streamed = {name: matrices[id(array)] for name, array in found.items() if id(array) in matrices}
    return streamed, {name: array for name, array in found.items() if name not in streamed}


def plain_model(config: Mapping[str, Any]) -> nn.Module:
    """mlx-lm's model of a configuration; its random weights are lazy, so they never exist."""
    return build_model(dict(config))


def logits(checkpoint: Checkpoint, tokens: np.ndarray, config: Mapping[str, Any] | None = None) -> np.ndarray:
    """The logits (B, T, V) of token ids (B, T), computed in float32.

    `config` is what mlx-lm reads in place of the checkpoint's completed configuration.

    Raises:
        LoopaiError: mlx-lm's model has other parameters than the checkpoint.
    """
    model = plain_model(checkpoint.config if config is None else config)
    streamed, loaded = _in_mlx(model, checkpoint.entries)
    if set(tree_flatten(model.parameters(), destination={})) != streamed.keys() | loaded.keys():
        raise LoopaiError(tr("{source}: mlx-lm's model has other parameters; convert again", source=checkpoint.source))
    replaced = {
        path: _streamed(module, streamed[f"{path}.weight"], loaded.get(f"{path}.bias"))
        for path, module in model.named_modules()
        if f"{path}.weight" in streamed
    }
    model.update_modules(tree_unflatten(list(replaced.items())))
    kept = [(name, array) for name, array in loaded.items() if name.rpartition(".")[0] not in replaced]
    model.load_weights(kept, strict=False)
    return np.array(model(mx.array(tokens)))
