from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.cache import BatchKVCache

from mlx_loopai.config import LoraOptions, generation_options
from mlx_loopai.errors import InputError
from mlx_loopai.generation.engine import (
    Generation,
    SamplingOptions,
    generate_batch,
    generate_in_turn,
    generate_stream,
)
from mlx_loopai.generation.sampling import choose, penalise
from mlx_loopai.models.load import LoadedModel, build_model, load_model
from mlx_loopai.models.lora import adapter_disabled, apply_lora, lora_modules
from mlx_loopai.models.prompt_cache import Prefix, compute_prefix

RNG = np.random.default_rng(3)
PROMPTS = [RNG.integers(3, 300, size).tolist() for size in (5, 1, 12, 5, 40, 2, 9, 17, 1, 30, 6, 8)]
GREEDY = SamplingOptions(temperature=0, max_tokens=12)


def streamed(loaded: LoadedModel, prompt: Sequence[int], options: SamplingOptions) -> tuple[str, tuple[int, ...], bool]:
    pieces = list(generate_stream(loaded, prompt, options))
    tokens = tuple(piece.token for piece in pieces if piece.token is not None)
    return "".join(piece.text for piece in pieces), tokens, pieces[-1].finished


def answered(loaded: LoadedModel, options: SamplingOptions, rows: int) -> list[tuple[str, tuple[int, ...], bool]]:
    return [(one.text, one.tokens, one.finished) for one in generate_batch(loaded, PROMPTS, options, batch_rows=rows)]


def common_tokens(generations: Sequence[Generation], count: int) -> set[int]:
    tokens, counts = np.unique([token for one in generations for token in one.tokens], return_counts=True)
    return {int(tokens[place]) for place in np.argsort(-counts)[:count]}


@pytest.mark.parametrize("rows", [1, 4, 32])
@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_greedy_batch_equals_one_by_one(
    ending_at: Callable[[set[int]], LoadedModel], rows: int, penalty: float, tiny: LoadedModel
) -> None:
    options = GREEDY.model_copy(update={"repetition_penalty": penalty, "max_tokens": 30})
    # Ends at what the model says often: rows end at different steps, leave, and others take their places.
    loaded = ending_at(common_tokens(generate_batch(tiny, PROMPTS, options), 4))
    expected = [streamed(loaded, prompt, options) for prompt in PROMPTS]
    lengths = {len(tokens) for _, tokens, _ in expected}
    assert len(lengths) > 2
    assert any(finished for *_, finished in expected)
    assert answered(loaded, options, rows) == expected


def test_greedy_batch_equals_one_by_one_on_nano_size() -> None:
    from types import SimpleNamespace

    from tools.nano import CONFIG

    mx.random.seed(1)
    model = build_model(CONFIG)
    detokenizer = SimpleNamespace(add_token=id, finalize=str, text="")
    vocabulary = {"last": CONFIG["vocab_size"] - 1}
    tokenizer = SimpleNamespace(eos_token_ids=set(), detokenizer=detokenizer, get_vocab=lambda: vocabulary)
    loaded = LoadedModel(model, tokenizer, None, None, "")  # type: ignore[arg-type]
    together = generate_batch(loaded, PROMPTS, GREEDY, batch_rows=8)
    alone = [generate_batch(loaded, [prompt], GREEDY)[0] for prompt in PROMPTS]
    assert together == alone


def test_prompt_longer_than_a_prefill_step(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_loopai.generation.engine.PREFILL_TOKENS", 16)
    prompts = [RNG.integers(3, 300, 50).tolist(), RNG.integers(3, 300, 21).tolist()]
    found = generate_batch(tiny, prompts, GREEDY)
    assert [one.tokens for one in found] == [streamed(tiny, prompt, GREEDY)[1] for prompt in prompts]


@pytest.mark.parametrize("rows", [3, 32])
def test_an_opening_that_prompts_share_is_read_once(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Also where rows join later, and where the padding of a short prompt looks like a token of the others."""
    read: list[int] = []

    def noted(model: nn.Module, tokens: list[int]) -> Prefix:
        read.append(len(tokens))
        return compute_prefix(model, tokens)

    monkeypatch.setattr("mlx_loopai.generation.engine.compute_prefix", noted)
    opening = RNG.integers(3, 300, 19).tolist()
    prompts = [opening + RNG.integers(3, 300, size).tolist() for size in (3, 9, 1, 14, 5, 2, 1)]
    found = generate_batch(tiny, prompts, GREEDY, batch_rows=rows)
    assert [one.tokens for one in found] == [streamed(tiny, prompt, GREEDY)[1] for prompt in prompts]
    assert read[:1] == [16]
    cut = [opening[:8] + [0] * 12, [*opening[:8], 0, 5], [*opening[:8], 0]]
    found = generate_batch(tiny, cut, GREEDY, batch_rows=rows)
    assert [one.tokens for one in found] == [streamed(tiny, prompt, GREEDY)[1] for prompt in cut]
    assert read[-1] == 8


def test_equal_prompts_are_read_once(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    merge = BatchKVCache.merge

    def noted(caches: list[Any]) -> BatchKVCache:
        read.append(len(caches))
        return merge(caches)

    monkeypatch.setattr(BatchKVCache, "merge", noted)
    prompts = [PROMPTS[place] for place in (0, 1, 0, 2, 1, 0)] + [[5], [5]]
    found = generate_batch(tiny, prompts, GREEDY)
    assert set(read) == {3}  # of a prompt of one token nothing is read before its last
    assert [one.tokens for one in found] == [streamed(tiny, prompt, GREEDY)[1] for prompt in prompts]


def test_answers_end_in_turn_each_at_its_limit(tiny: LoadedModel) -> None:
    whole = [streamed(tiny, prompt, GREEDY)[1] for prompt in PROMPTS]
    limits = [1 + place % 5 for place in range(len(PROMPTS))]
    order = list(range(len(PROMPTS)))[::-1]
    found = list(generate_in_turn(tiny, PROMPTS, GREEDY, order, limits, 4))
    assert sorted(index for index, _ in found) == order[::-1]
    assert found[0][0] >= len(PROMPTS) - 4
    for index, answer in found:
        assert answer.tokens == whole[index][: limits[index]]


def test_seeds_reproduce_and_rows_are_independent(tiny: LoadedModel) -> None:
    options = SamplingOptions(temperature=1.0, top_p=0.95, max_tokens=10, seed=5)
    first = answered(tiny, options, 32)
    assert answered(tiny, options, 32) == first
    assert answered(tiny, options, 3) == first
    assert streamed(tiny, PROMPTS[0], options) == first[0]
    assert answered(tiny, options.model_copy(update={"seed": 6}), 32) != first
    same_prompt = generate_batch(tiny, [PROMPTS[2]] * 4, options)
    assert len({one.tokens for one in same_prompt}) == 4


def test_max_tokens_and_end_of_text(ending_at: Callable[[set[int]], LoadedModel]) -> None:
    endless = ending_at(set())
    text, tokens, finished = streamed(endless, PROMPTS[0], GREEDY)
    assert (len(tokens), finished) == (12, False)
    stopping = ending_at({tokens[3]})
    cut = tokens[: tokens.index(tokens[3])]
    found = streamed(stopping, PROMPTS[0], GREEDY)
    assert found[1:] == (cut, True)
    assert text.startswith(found[0])
    assert generate_batch(stopping, PROMPTS[:1], GREEDY)[0].tokens == cut
    one = GREEDY.model_copy(update={"max_tokens": 1})
    assert streamed(endless, PROMPTS[0], one)[1] == tokens[:1]
    assert generate_batch(endless, PROMPTS[:1], one)[0] == Generation(
        streamed(endless, PROMPTS[0], one)[0], tokens[:1], False, 5
    )


def test_a_character_that_is_cut_leaves_no_replacement_character(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = tiny.tokenizer.encode("가나 뷁", add_special_tokens=False)
    cut = next(count for count in range(len(ids), 0, -1) if tiny.tokenizer.decode(ids[:count]).endswith("\ufffd"))

    def scripted(logits: mx.array, _options: SamplingOptions, draw: Callable[[], list[float]]) -> mx.array:
        scripted.calls += 1  # type: ignore[attr-defined]
        return mx.full((logits.shape[0],), ids[(scripted.calls - 1) % len(ids)], dtype=mx.uint32)  # type: ignore[attr-defined]

    monkeypatch.setattr("mlx_loopai.generation.engine.choose", scripted)
    monkeypatch.setattr("mlx_loopai.generation.decoding.choose", scripted)
    options = GREEDY.model_copy(update={"max_tokens": cut})
    scripted.calls = 0  # type: ignore[attr-defined]
    text = streamed(tiny, [5], options)[0]
    scripted.calls = 0  # type: ignore[attr-defined]
    assert generate_batch(tiny, [[5]], options)[0].text == text
    assert text
    assert "가나 뷁".startswith(text)


def test_adapter_on_and_off(tiny_model_folder: object, tiny: LoadedModel) -> None:
    adapted = load_model(str(tiny_model_folder), "fp32")
    apply_lora(adapted.model, LoraOptions(rank=4), seed=0)
    base = answered(tiny, GREEDY, 32)
    assert answered(adapted, GREEDY, 32) == base
    for module in lora_modules(adapted.model).values():
        module.lora_b = mx.random.normal(module.lora_b.shape)
    changed = answered(adapted, GREEDY, 32)
    assert changed != base
    assert changed == [streamed(adapted, prompt, GREEDY) for prompt in PROMPTS]
    with adapter_disabled(adapted.model):
        assert answered(adapted, GREEDY, 32) == base


def test_quantised_base(tiny_model_folder: object) -> None:
    loaded = load_model(str(tiny_model_folder), "fp32")
    nn.quantize(loaded.model, group_size=32, bits=8)
    assert answered(loaded, GREEDY, 5) == [streamed(loaded, prompt, GREEDY) for prompt in PROMPTS]


def test_progress_and_empty_input(tiny: LoadedModel) -> None:
    seen: list[int] = []
    generate_batch(tiny, PROMPTS, GREEDY, seen.append, batch_rows=4)
    assert seen[-1] == 12
    assert seen == sorted(seen)
    assert generate_batch(tiny, [], GREEDY) == []
    with pytest.raises(InputError, match="prompt 2 is empty"):
        generate_batch(tiny, [[1], []], GREEDY)
    with pytest.raises(InputError, match="prompt 1 is empty"):
        next(generate_stream(tiny, [], GREEDY))
    assert inspect.isgenerator(generate_stream(tiny, [1], GREEDY))


def test_sampling_follows_the_distribution() -> None:
    probabilities = np.array([0.5, 0.25, 0.15, 0.1], dtype=np.float32)
    logits = mx.broadcast_to(mx.array(np.log(probabilities)), (4000, 4))
    uniforms = ((np.arange(4000) + 0.5) / 4000).tolist()

    def shares(options: SamplingOptions) -> list[float]:
        chosen = np.array(choose(logits, options, lambda: uniforms))
        return [float((chosen == token).mean()) for token in range(4)]

    assert shares(SamplingOptions(temperature=1, top_p=1)) == pytest.approx(probabilities, abs=1e-3)
    halved = probabilities**2 / (probabilities**2).sum()
    assert shares(SamplingOptions(temperature=0.5, top_p=1)) == pytest.approx(halved, abs=1e-3)
    assert shares(SamplingOptions(temperature=1, top_p=0.7)) == pytest.approx([2 / 3, 1 / 3, 0, 0], abs=1e-3)
    assert shares(SamplingOptions(temperature=1, top_p=1, top_k=1)) == [1, 0, 0, 0]
    assert shares(SamplingOptions(temperature=1, top_p=1, top_k=99)) == pytest.approx(probabilities, abs=1e-3)


@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_the_nucleus_of_a_wide_vocabulary(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among the thousand largest or among all: what numpy keeps, in float64."""
    logits = RNG.normal(size=(3, 5000)) * spread
    options = SamplingOptions(temperature=1, top_p=0.9)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    kept = np.zeros(probabilities.shape, dtype=bool)
    for row, order in zip(range(3), np.argsort(-probabilities, axis=1), strict=True):
        count = 1 + int(np.searchsorted(np.cumsum(probabilities[row, order]), 0.9))
        kept[row, order[:count]] = True
    assert (kept.sum(axis=1) > 1024).all() == (spread < 1)
    shares = np.where(kept, probabilities, 0).cumsum(axis=1)
    for uniform in (0.0, 0.1, 0.5, 0.77, 0.999):
        chosen = choose(mx.array(logits, dtype=mx.float32), options, lambda u=uniform: [u] * 3).tolist()
        for row, token in enumerate(chosen):
            assert kept[row, token]
            assert shares[row, token] / shares[row, -1] == pytest.approx(uniform, abs=2 * probabilities[row].max())
        monkeypatch.setattr("mlx_loopai.generation.sampling._CANDIDATES", 5000)
        assert choose(mx.array(logits, dtype=mx.float32), options, lambda u=uniform: [u] * 3).tolist() == chosen
        monkeypatch.undo()


def test_min_p_leaves_out_what_is_unlikely_beside_the_best() -> None:
    logits = mx.log(mx.array([[0.5, 0.3, 0.15, 0.05]]))
    options = SamplingOptions(temperature=5.0, top_p=1.0, min_p=0.25)
    drawn = {int(choose(logits, options, lambda at=at: [at]).item()) for at in np.linspace(0, 0.999, 200)}
    assert drawn == {0, 1, 2}
    assert int(choose(logits, SamplingOptions(temperature=5.0, min_p=0.99), lambda: [0.99]).item()) == 0


def test_a_token_that_was_ruled_out_is_never_drawn() -> None:
    logits = mx.array([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]])
    options = SamplingOptions(temperature=1, top_p=1)
    drawn = {choose(logits, options, lambda u=u: [u]).item() for u in (0.0, 0.25, 0.5, 0.75, 1.0)}
    assert drawn == {1, 3}


def test_penalty() -> None:
    logits = mx.array([[2.0, -2.0, 1.0, 0.0]])
    assert penalise(logits, mx.array([[0, 1, 0]]), 2.0).tolist() == [[1.0, -4.0, 1.0, 0.0]]


def test_wrong_options_are_all_named() -> None:
    with pytest.raises(InputError) as failure:
        generation_options(
            {
                "temperature": math.nan,
                "top_p": 0,
                "top_k": -1,
                "repetition_penalty": 1e-38,
                "max_tokens": 0,
                "seed": -1,
                "stop": ("",),
            }
        )
    named = ("`temperature` nan", "`top_p` 0", "`top_k` -1", "`repetition_penalty` 1e-38", "`max_tokens` 0")
    for name in (*named, "`seed` -1", "`stop` ('',): give at most"):
        assert name in str(failure.value)
