"""What fine-tuning did to a model's hidden states, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_loopai.models.backbone import block_states
from mlx_loopai.models.decoder import embedded
from mlx_loopai.models.lora import adapter_disabled, lora_modules

_Floats = npt.NDArray[np.float32]
_SENTENCES = 32  # at a time


@dataclass(frozen=True)
class Hidden:
    """Per layer, from the embedding (0) to the last block (L): arrays (L + 1,).

    cosine, cka: between the mean states of parallel sentences in two languages; base_cosine, base_cka: the same of the
    base. drift_cosine, drift_cka: between the states of base and adapted model for the same sentences; 1 where nothing
    changed.
    """

    cosine: _Floats
    cka: _Floats
    base_cosine: _Floats
    base_cka: _Floats
    drift_cosine: _Floats
    drift_cka: _Floats


def hidden(model: nn.Module, first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> Hidden:
    """Compare N sentences of token ids with their N translations, adapter on and off, on one copy of the weights.

    Raises: ValueError when the numbers differ, or for fewer than two sentences, since CKA needs a variance.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"{len(first)} sentences and {len(second)} translations; give two or more pairs")
    tuned = [sentence_states(model, sequences) for sequences in (first, second)]
    if lora_modules(model):
        with adapter_disabled(model):
            base = [sentence_states(model, sequences) for sequences in (first, second)]
    else:
        base = tuned
    before, after = (np.concatenate(states, axis=1) for states in (base, tuned))
    return Hidden(
        cosine=mean_cosine(*tuned),
        cka=linear_cka(*tuned),
        base_cosine=mean_cosine(*base),
        base_cka=linear_cka(*base),
        drift_cosine=mean_cosine(before, after),
        drift_cka=linear_cka(before, after),
    )


def mean_cosine(one: _Floats, other: _Floats) -> _Floats:
    """Mean cosine of paired rows: (L, N, D) and (L, N, D) -> (L,)."""
    dots = (one * other).sum(-1)
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return (dots / np.maximum(norms, 1e-30)).mean(-1).astype(np.float32)


def linear_cka(one: _Floats, other: _Floats) -> _Floats:
    """Linear centred kernel alignment of paired rows, in [0, 1]: (L, N, D) and (L, N, D) -> (L,).

    Computed through the N x N Gram matrices, so that D may be large. Source: Kornblith et al. 2019, equation 4.
    """
    grams = [_centred_gram(states) for states in (one, other)]
    cross = (grams[0] * grams[1]).sum((-2, -1))
    norms = [np.sqrt((gram * gram).sum((-2, -1))) for gram in grams]
    return (cross / np.maximum(norms[0] * norms[1], 1e-30)).astype(np.float32)


def _centred_gram(states: _Floats) -> npt.NDArray[np.float64]:
    # Sums of squares of sums: float32 would lose the digits that tell 0.99 from 1.
    centred = states.astype(np.float64) - states.mean(axis=1, keepdims=True)
    found: npt.NDArray[np.float64] = centred @ centred.swapaxes(-1, -2)
    return found


def sentence_states(model: nn.Module, sequences: Sequence[Sequence[int]]) -> _Floats:
    """Mean state over a sentence's tokens but the first, after the embedding and after each block: (L + 1, N, D).

    Sentences are computed in batches, since reading the weights costs more than the few tokens of one sentence. They
    are padded on the right, where a causal model does not see the padding.
    """
    found = []
    for start in range(0, len(sequences), _SENTENCES):
        some = sequences[start : start + _SENTENCES]
        lengths = np.array([len(ids) for ids in some])
        ids = np.zeros((len(some), lengths.max()), np.int32)
        for row, sentence in zip(ids, some, strict=True):
            row[: len(sentence)] = sentence
        means = mx.stack([_mean(states, _counted(lengths)) for states in _layers(model, mx.array(ids))])
        found.append(np.array(means))
    return np.concatenate(found, axis=1)


def _layers(model: nn.Module, ids: mx.array) -> list[mx.array]:
    states = embedded(model, ids)
    layers = [states]
    for block in model.layers:
        states = block_states(model, block, states)
        layers.append(states)
    return layers


def _counted(lengths: npt.NDArray[np.int64]) -> mx.array:
    """Weights (N, T) of a mean over each sentence's tokens but the first (which counts when it is the only one).

    The first token is an attention sink: its state is hundreds of times as large as the others' and alike for all
    sentences, so that a mean with it would say nothing about them (Qwen2.5-0.5B: CKA 0.001 from the third block on).
    """
    places = np.arange(lengths.max())[None]
    real = (places < lengths[:, None]) & ((places > 0) | (lengths[:, None] == 1))
    return mx.array((real / real.sum(axis=1, keepdims=True)).astype(np.float32))


def _mean(states: mx.array, weights: mx.array) -> mx.array:
    """(N, T, D) and (N, T) -> (N, D), float32."""
    return (weights[:, None] @ states.astype(mx.float32))[:, 0]
