"""Rows that come and go: equal to answers written alone, whatever is written beside them."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_loopai.config import GenerationOptions
from mlx_loopai.errors import InputError
from mlx_loopai.generation.answers import write_answers
from mlx_loopai.generation.batch import Batch, Chance, Request
from mlx_loopai.generation.constraint import Scripts, Tally, build_constraint
from mlx_loopai.generation.engine import Generation, SamplingOptions, generate_stream, load_draft, stream
from mlx_loopai.generation.repetition import RepetitionGuard
from mlx_loopai.models.load import LoadedModel
from mlx_loopai.models.prompt_cache import Prefix, compute_prefix, shared_tokens

RNG = np.random.default_rng(8)
PROMPTS = [RNG.integers(3, 300, size).tolist() for size in (5, 1, 12, 40, 2, 9, 17, 1, 30)]
GREEDY = SamplingOptions(temperature=0, max_tokens=14)
HOT = SamplingOptions(temperature=1.0, top_p=0.95, max_tokens=14, seed=5)


def alone(loaded: LoadedModel, request: Request) -> Generation:
    """The same answer as a stream: greedy, or drawn in row 0."""
    pieces = list(generate_stream(loaded, request.prompt, request.options, request.constraint))
    tokens = tuple(piece.token for piece in pieces if piece.token is not None)
    return Generation("".join(piece.text for piece in pieces), tokens, pieces[-1].finished, len(request.prompt))


def together(loaded: LoadedModel, requests: Sequence[Request], rows: int = 32) -> list[Generation]:
    found = dict(write_answers(loaded, requests, batch_rows=rows))
    assert sorted(found) == list(range(len(requests)))
    texts = [found[place].text for place in range(len(requests))]
    return [Generation(one.written, one.tokens, one.finished, one.prompt_tokens) for one in texts]


@pytest.mark.parametrize("rows", [1, 3, 32])
def test_greedy_rows_equal_streams(ending_at: Callable[[set[int]], LoadedModel], tiny: LoadedModel, rows: int) -> None:
    constraint = build_constraint(tiny, Scripts.parse("ko+gloss"), code_fences=True)
    choices = [(1.0, None), (1.3, None), (1.0, constraint)]
    requests = [
        Request(prompt, GREEDY.model_copy(update={"repetition_penalty": factor, "max_tokens": 6 + 3 * place}), held)
        for place, (prompt, (factor, held)) in enumerate(zip(PROMPTS, choices * 3, strict=True))
    ]
    tokens = [token for request in requests for token in alone(tiny, request).tokens]
    values, counts = np.unique(tokens, return_counts=True)
    # Ends at what the model says often: rows end at different steps, and waiting ones take their places.
    loaded = ending_at({int(values[place]) for place in np.argsort(-counts)[:4]})
    expected = [alone(loaded, request) for request in requests]
    assert {answer.finished for answer in expected} == {True, False}
    assert together(loaded, requests, rows) == expected


def test_a_row_draws_the_same_in_any_company(tiny: LoadedModel) -> None:
    constraint = build_constraint(tiny, Scripts.parse("ko"))
    mine = Request(PROMPTS[2], HOT, constraint, row=7)
    others = [Request(prompt, HOT, row=place) for place, prompt in enumerate(PROMPTS)]
    (expected,) = together(tiny, [mine])
    assert together(tiny, [*others, mine], 3)[-1] == expected
    assert together(tiny, [mine, *others])[0] == expected
    assert together(tiny, [dataclasses.replace(mine, row=8)]) != [expected]
    assert together(tiny, [dataclasses.replace(mine, row=0)]) == [alone(tiny, mine)]


def _requests_of_all_kinds(loaded: LoadedModel) -> list[Request]:
    """With guards, constraints and samplers of several kinds, two of each, and one that looks at its answer alone."""
    guard = RepetitionGuard(loaded)
    guard.__dict__["weights"] = mx.ones(loaded.n_tokens)
    bound, biased = (build_constraint(loaded, Scripts.parse(text)) for text in ("ko", "ko+loanwords+gloss"))
    kinds: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"temperature": 0.0, "repetition_guard": 2.0}, {"guard": guard}),
        ({"temperature": 0.0, "repetition_guard": 0.8}, {"guard": guard, "constraint": bound}),
        ({"temperature": 0.8, "top_p": 0.9}, {"constraint": biased}),
        ({"temperature": 0.0}, {"constraint": bound, "likeliest": 3}),
        ({"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.3}, {"guard": guard, "constraint": bound}),
        ({"temperature": 1.1, "top_p": 1.0, "min_p": 0.02}, {"likeliest": 2}),
    ]
    return [
        Request(
            prompt, GenerationOptions(max_tokens=20 + place, seed=3, **options), tally=Tally(), row=place, **settings
        )
        for place, (prompt, (options, settings)) in enumerate(zip((PROMPTS + PROMPTS)[:12], kinds * 2, strict=True))
    ]


def test_rows_of_all_kinds_are_chosen_together_as_alone(tiny: LoadedModel) -> None:
    requests = _requests_of_all_kinds(tiny)
    expected = [[piece.token for piece in stream(tiny, request)] for request in requests]
    tallies = [(request.tally.argmax_masked, request.tally.masked_mass) for request in requests if request.tally]
    chances: dict[int, list[Chance | None]] = {}
    fresh = [dataclasses.replace(request, tally=Tally()) for request in requests]
    written: dict[int, list[int | None]] = {}
    with Batch(tiny, 5) as batch:
        keys = [batch.add(request) for request in fresh]
        while len(batch):
            for found in batch.step():
                written.setdefault(found.key, []).append(found.piece.token)
                chances.setdefault(found.key, []).append(found.chance)
    assert [written[key] for key in keys] == expected
    assert any(share for share, _ in tallies)
    for request, (share, mass) in zip(fresh, tallies, strict=True):
        assert request.tally is not None
        # A stream prepares one token more than it hands on.
        assert request.tally.argmax_masked == pytest.approx(share, abs=0.06)
        assert request.tally.masked_mass == pytest.approx(mass, abs=1e-4)
    for key, request in zip(keys, fresh, strict=True):
        for token, chance in zip(written[key], chances[key], strict=True):
            assert (chance is None) == (request.likeliest is None or token is None)
            assert chance is None or (chance.token == token and len(chance.likeliest) == request.likeliest)
            if chance is not None and not request.options.temperature:
                assert chance.likeliest[0] == (token, chance.logprob)


def test_a_row_may_have_any_beginning_before_it_joins(tiny: LoadedModel) -> None:
    """Prompts shorter than what a constraint looks at, beside longer ones."""
    constraint = build_constraint(tiny, Scripts.parse("ko+gloss"))
    requests = [Request(prompt, HOT, constraint, row=place) for place, prompt in enumerate(PROMPTS)]
    assert together(tiny, requests) == [together(tiny, [request])[0] for request in requests]


@pytest.mark.parametrize("beside", [16, 37])
def test_long_prompts_are_read_in_parts_while_others_are_written(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch, beside: int
) -> None:
    """A reader waits for a part at a time, and the answers are the same."""
    monkeypatch.setattr("mlx_loopai.generation.batch.PREFILL_BESIDE_TOKENS", beside)
    constraint = build_constraint(tiny, Scripts.parse("ko+gloss"))
    first = Request(PROMPTS[0], GREEDY.model_copy(update={"max_tokens": 40}), constraint)
    long = [Request(RNG.integers(3, 300, size).tolist(), HOT, constraint, row=size) for size in (90, 61, 7)]
    expected = together(tiny, [first, *long])
    widths: list[int] = []
    call = type(tiny.model).__call__

    def noted(model: Any, ids: mx.array, *given: Any, **named: Any) -> Any:
        widths.append(ids.size)
        return call(model, ids, *given, **named)

    monkeypatch.setattr(type(tiny.model), "__call__", noted)
    written: dict[int, list[int | None]] = {}
    with Batch(tiny, 8) as batch:
        keys = [batch.add(first)]
        while keys[0] not in written:
            written |= {found.key: [found.piece.token] for found in batch.step()}
        keys += [batch.add(request) for request in long]
        widths.clear()
        while len(batch):
            for found in batch.step():
                written.setdefault(found.key, []).append(found.piece.token)
    assert max(widths) <= beside
    ends = [[] if answer.finished is False else [None] for answer in expected]
    assert [written[key] for key in keys] == [
        [*answer.tokens, *end] for answer, end in zip(expected, ends, strict=True)
    ]


def test_rows_join_and_leave_on_the_way(tiny: LoadedModel) -> None:
    tally = Tally()
    first = Request(PROMPTS[3], HOT, build_constraint(tiny, Scripts.parse("ko")), tally)
    second = Request(PROMPTS[0], GREEDY)
    with Batch(tiny, 2) as batch:
        assert batch.step() == []
        kept, gone = batch.add(first), batch.add(Request(PROMPTS[1], GREEDY))
        pieces = [piece for _ in range(4) for piece in batch.step()]
        batch.remove(gone)
        batch.remove(gone)
        joined = batch.add(second)
        assert len(batch) == 2
        while len(batch):
            pieces += batch.step()
    for key, request in ((kept, first), (joined, second)):
        mine = [one for one in pieces if one.key == key]
        assert "".join(one.piece.text for one in mine) == alone(tiny, request).text
        assert [one.last for one in mine] == [False] * (len(mine) - 1) + [True]
    assert 0 < tally.masked_mass < 1


@pytest.mark.parametrize("options", [GREEDY, HOT])
def test_a_prefix_that_was_read_before_changes_nothing(tiny: LoadedModel, options: SamplingOptions) -> None:
    prompts = [PROMPTS[3] + prompt for prompt in PROMPTS]
    prefix = compute_prefix(tiny.model, shared_tokens(prompts))
    assert prefix.tokens == tuple(PROMPTS[3])
    constraint = build_constraint(tiny, Scripts.parse("ko+gloss"), code_fences=True)
    plain = [Request(prompt, options, constraint, row=place) for place, prompt in enumerate(prompts)]
    # One row without it, and one that begins otherwise.
    cached = [dataclasses.replace(request, prefix=prefix) for request in plain[1:]]
    expected = together(tiny, [*plain, Request(PROMPTS[0], options)])
    assert together(tiny, [plain[0], *cached, Request(PROMPTS[0], options)], 3) == expected
    first = dataclasses.replace(plain[1], prefix=prefix, row=0)
    assert list(stream(tiny, first)) == list(stream(tiny, dataclasses.replace(plain[1], row=0)))
    longer = compute_prefix(tiny.model, prompts[2][:-1], prefix)
    assert together(tiny, [dataclasses.replace(plain[2], prefix=longer)]) == [expected[2]]


@pytest.mark.parametrize("scripts", ["off", "ko+gloss"])
@pytest.mark.parametrize("options", [GREEDY, HOT, HOT.model_copy(update={"repetition_penalty": 1.3})])
def test_a_draft_model_changes_nothing(tiny: LoadedModel, options: SamplingOptions, scripts: str) -> None:
    draft = load_draft(str(tiny.path), tiny)
    shallow = dataclasses.replace(draft, model=load_draft(str(tiny.path), tiny).model)
    shallow.model.model.layers = shallow.model.model.layers[:1]
    for place, prompt in enumerate(PROMPTS[:4]):
        constraint = build_constraint(tiny, Scripts.parse(scripts), code_fences=place == 3)
        request = Request(prompt, options.model_copy(update={"max_tokens": 9 + place}), constraint)
        expected = list(stream(tiny, request))
        assert list(stream(tiny, request, draft)) == expected
        assert list(stream(tiny, request, shallow)) == expected


@pytest.mark.parametrize("options", [GREEDY, HOT])
@pytest.mark.parametrize("stop_after", [100, 1, 4, 6])
def test_an_answer_alone_is_drafted_and_leaves_its_cache(
    tiny: LoadedModel, options: SamplingOptions, stop_after: int
) -> None:
    draft = load_draft(str(tiny.path), tiny)
    draft.model.model.layers = draft.model.model.layers[:1]
    first, second = (Request(PROMPTS[place], options) for place in (3, 2))
    expected = [list(stream(tiny, one)) for one in (first, second)]
    left: list[tuple[list[int], list[Any]]] = []
    with Batch(tiny, on_read=lambda _, tokens, cache: left.append((tokens, cache)), draft=draft) as batch:
        key = batch.add(first)
        pieces = batch.step()
        joining = batch.add(second)
        while len(batch) and len(pieces) < stop_after + (joining in [piece.key for piece in pieces]):
            pieces += batch.step()
        if stop_after < 100:
            batch.remove(key)
    own = [piece.piece for piece in pieces if piece.key == key]
    assert own == expected[0][: len(own)]
    assert stop_after < 100 or [piece.piece for piece in pieces if piece.key == joining] == expected[1]
    tokens, cache = left[-1] if stop_after < 100 else max(left, key=lambda one: len(one[0]))
    assert cache[0].offset == len(tokens)
    assert list(tokens) == [*PROMPTS[3], *(piece.token for piece in own)][: len(tokens)]
    # What it left is as good as reading the tokens anew, with a draft and without one.
    following = Request([*tokens, 7, 8], GREEDY)
    kept = dataclasses.replace(following, prefix=Prefix(tuple(tokens), cache))
    assert list(stream(tiny, kept)) == list(stream(tiny, kept, draft)) == list(stream(tiny, following))


def test_a_draft_model_of_another_vocabulary(tiny: LoadedModel) -> None:
    with pytest.raises(InputError, match="`draft_model` nano: its vocabulary is not the model's"):
        load_draft("nano", tiny)


def test_empty_prompts(tiny: LoadedModel) -> None:
    assert list(write_answers(tiny, [])) == []
    with Batch(tiny) as batch, pytest.raises(InputError, match="is empty"):
        batch.add(Request([], GREEDY))
    with pytest.raises(InputError, match="prompt 2 is empty"):
        next(write_answers(tiny, [Request([1], GREEDY), Request([], GREEDY)]))


def test_a_row_lets_go_of_what_it_copied(tiny: LoadedModel) -> None:
    prefix = compute_prefix(tiny.model, PROMPTS[3][:30])
    held = weakref.ref(prefix)
    with Batch(tiny) as batch:
        batch.add(Request(PROMPTS[3], GREEDY, prefix=prefix))
        del prefix
        while not batch.step():
            pass
        gc.collect()
        assert held() is None
        assert len(batch) == 1
