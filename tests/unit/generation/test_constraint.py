"""The script constraint: what it allows, that its state is the sequence's own, and that generation obeys it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import regex

from mlx_loopai.errors import InputError
from mlx_loopai.generation.answer_stream import Text
from mlx_loopai.generation.answers import write_answers
from mlx_loopai.generation.constraint import Constraint, Scripts, Tally, build_constraint
from mlx_loopai.generation.engine import SamplingOptions, generate_batch, generate_stream
from mlx_loopai.generation.request import Request
from mlx_loopai.models.load import LoadedModel, load_model, load_tokenizer

HOT = SamplingOptions(temperature=1.5, top_p=1.0, max_tokens=40, seed=4)
FOREIGN = regex.compile(r"[\p{Latin}\p{Han}\p{Hiragana}\p{Katakana}\p{Cyrillic}\ufffd]")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_LOOPAI_CACHE", str(tmp_path_factory.getbasetemp() / "constraints"))


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model("nano", "fp32")


def constraint_of(loaded: LoadedModel, scripts: str, code_fences: bool = False) -> Constraint:
    built = build_constraint(loaded, Scripts.parse(scripts), code_fences)
    assert built is not None
    return built


def forbidden_at(loaded: LoadedModel, constraint: Constraint, ids: list[int]) -> list[int]:
    """The places of `ids` whose token the constraint forbids after those before it."""
    zeros = mx.zeros((1, constraint.n_tokens))
    start = list(loaded.tokenizer.eos_token_ids)[:1]
    found = []
    for place, token in enumerate(ids):
        before = mx.array([(start + ids[:place])[-(constraint.window or place + 1) :]])
        if mx.isinf(constraint.apply(before, zeros)[0, token]).item():
            found.append(place)
    return found


def allows(loaded: LoadedModel, constraint: Constraint, text: str) -> bool:
    ids = loaded.tokenizer.encode(text, add_special_tokens=False)
    return not forbidden_at(loaded, constraint, ids + list(loaded.tokenizer.eos_token_ids)[:1])


@pytest.mark.parametrize(
    ("scripts", "allowed", "forbidden"),
    [
        ("ko", ["안녕, 3.5%… 「시」 ㅋㅋ\n\n★ 50℃"], ["abc", "銀", "가(銀)", "か", "😀", "д", "\ufffd"]),
        ("ko+latin", ["AI와 café"], ["銀", "か"]),
        ("ko+han", ["銀貨가"], ["abc", "か"]),
        (
            "ko+gloss",
            ["은화(銀貨)처럼", "가(家·家)", "가(銀銀銀銀銀銀銀銀)"],
            ["銀", "은화 (銀", "(銀", "가(銀銀銀銀銀銀銀銀銀", "가(나銀"],
        ),
        ("ko+emoji", ["좋아 😀👍🏽 👨‍👩‍👧 🇰🇷 1️⃣"], ["good"]),
    ],
)
def test_policies(nano: LoadedModel, scripts: str, allowed: list[str], forbidden: list[str]) -> None:
    constraint = constraint_of(nano, scripts)
    assert [text for text in allowed if not allows(nano, constraint, text)] == []
    assert [text for text in forbidden if allows(nano, constraint, text)] == []


def test_every_syllable_can_be_written(nano: LoadedModel) -> None:
    constraint = constraint_of(nano, "ko")
    allowed, after = np.array(constraint.table.allowed), np.array(constraint.table.after)
    for code in range(0xAC00, 0xD7A4):
        state = 0
        for token in nano.tokenizer.encode(chr(code), add_special_tokens=False):
            assert allowed[state, token], chr(code)
            state = after[token, state]
        assert state == 0


def test_no_end_inside_a_character(nano: LoadedModel) -> None:
    constraint = constraint_of(nano, "ko")
    eos = next(iter(nano.tokenizer.eos_token_ids))
    allowed = np.array(constraint.table.allowed)
    assert allowed[0, eos]
    assert not allowed[1:, eos].any()
    assert (allowed.sum(axis=1) > 0).all()


def test_the_state_is_that_of_the_whole_sequence(nano: LoadedModel) -> None:
    """The window gives what a fold over all tokens gives, from the first step of random walks on."""
    rng = np.random.default_rng(5)
    for scripts in ("ko", "ko+gloss", "ko+latin+han"):
        constraint = constraint_of(nano, scripts)
        allowed, after = np.array(constraint.table.allowed), np.array(constraint.table.after)
        walk, states, state = [], [], 0
        for _ in range(300):
            choices = np.flatnonzero(allowed[state])
            walk.append(int(rng.choice(choices)))
            state = int(after[walk[-1], state])
            states.append(state)
        window = constraint.window or 0
        for end in range(1, len(walk) + 1):
            recent = mx.array([walk[max(0, end - window) : end]])
            assert constraint.table.state(recent).item() == states[end - 1]


def together(loaded: LoadedModel, requests: list[Request], batch_rows: int = 32) -> list[Text]:
    found = dict(write_answers(loaded, requests, batch_rows=batch_rows))
    return [found[place].text for place in range(len(requests))]


@pytest.mark.parametrize("scripts", ["ko", "ko+gloss", "ko+loanwords+gloss"])
def test_generated_text_obeys(tiny: LoadedModel, nano: LoadedModel, scripts: str) -> None:
    for loaded in (tiny, nano):
        constraint = constraint_of(loaded, scripts)
        prompts = [loaded.tokenizer.encode(text) for text in ("호랑이", "tell me 漢", "가나다라 마바사", "x")]
        tally = Tally()
        requests = [Request(ids, HOT, constraint, tally, row) for row, ids in enumerate(prompts)]
        for answer in together(loaded, requests, batch_rows=3):
            assert "\ufffd" not in answer.text
            if scripts == "ko":
                assert not FOREIGN.search(answer.text)
        assert 0 < tally.masked_mass < 1
        assert 0 <= tally.argmax_masked <= 1


def test_stream_equals_batch(tiny: LoadedModel) -> None:
    for fences in (False, True):
        constraint = constraint_of(tiny, "ko+loanwords+gloss", fences)
        prompt = tiny.tokenizer.encode("호랑이 user")
        options = HOT.model_copy(update={"repetition_penalty": 1.3})
        streamed = [
            piece.token for piece in generate_stream(tiny, prompt, options, constraint) if piece.token is not None
        ]
        prompts = [prompt, tiny.tokenizer.encode("가"), prompt[:2]]
        requests = [Request(ids, options, constraint, row=row) for row, ids in enumerate(prompts)]
        assert list(together(tiny, requests)[0].tokens) == streamed


def test_fences_free_what_is_inside(nano: LoadedModel) -> None:
    constraint = constraint_of(nano, "ko", code_fences=True)
    assert allows(nano, constraint, "코드:\n```print('か')```\n끝")
    assert not allows(nano, constraint, "코드:\n```print()```\nend")
    assert not allows(nano, constraint_of(nano, "ko"), "코드:\n```print()```\n끝")


def test_loanwords_cost_unless_quoted(nano: LoadedModel) -> None:
    constraint = constraint_of(nano, "ko+loanwords")
    assert constraint.bias is not None
    words = [token for word in ("print", " return") for token in nano.tokenizer.encode(word)]
    biased = [token for token in words if constraint.bias[token].item() < 0]
    assert biased
    quoted = constraint.bias_of(nano.tokenizer.encode("print, return"))
    assert quoted is not None
    assert all(quoted[token].item() == 0 for token in biased)
    assert constraint.bias[nano.tokenizer.encode("안")[0]].item() == 0


def test_padding_rows_are_never_chosen(tiny: LoadedModel) -> None:
    class Padded:
        """The tiny model with rows in its head that no token has, and that would win."""

        def __init__(self) -> None:
            self.layers = tiny.model.layers
            self.make_cache = getattr(tiny.model, "make_cache", None)

        def __call__(self, inputs: mx.array, cache: object = None) -> mx.array:
            logits = tiny.model(inputs, cache=cache)
            return mx.concatenate([logits, mx.full((*logits.shape[:-1], 20), 1e4)], axis=-1)

    assert generate_batch(tiny, [[5, 6]], HOT)[0].tokens
    model = Padded()
    del model.make_cache
    padded = dataclasses.replace(tiny, model=model)
    options = HOT.model_copy(update={"temperature": 0})
    expected = generate_batch(tiny, [[5, 6]], options)
    assert generate_batch(padded, [[5, 6]], options) == expected


def test_tables_are_stored_and_read_again(tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_LOOPAI_CACHE", str(tmp_path))
    first = constraint_of(tiny, "ko+gloss")
    (stored,) = tmp_path.glob("constraint-*.npz")
    written = stored.stat().st_mtime_ns
    second = constraint_of(tiny, "ko+gloss")
    assert stored.stat().st_mtime_ns == written
    assert mx.array_equal(first.table.allowed, second.table.allowed).item()
    stored.write_bytes(b"broken")
    assert mx.array_equal(first.table.after, constraint_of(tiny, "ko+gloss").table.after).item()


@pytest.mark.parametrize("text", ["", "ko+klingon", "latin", "ko+off"])
def test_bad_policies(text: str) -> None:
    with pytest.raises(InputError, match="`scripts`"):
        Scripts.parse(text)


def test_thinking_marks_stand_between_characters(tiny: LoadedModel, tmp_path: Path) -> None:
    for file in tiny.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    described = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    settings = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    described["added_tokens"] += [
        {"id": 300, "content": "<think>", **settings},
        {"id": 301, "content": "</think>", **settings},
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    thinking = dataclasses.replace(tiny, path=tmp_path, tokenizer=load_tokenizer(tmp_path))
    for fences in (False, True):
        constraint = constraint_of(thinking, "ko", fences)
        assert allows(thinking, constraint, "<think>\n생각\n</think>\n\n안녕")
        assert not allows(thinking, constraint, "<think>thought</think>")
        allowed = np.array(constraint.table.allowed)
        assert not allowed[1:, 300:302].any()


def test_off_is_no_constraint(tiny: LoadedModel) -> None:
    assert build_constraint(tiny, Scripts.parse("off")) is None
