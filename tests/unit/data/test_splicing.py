"""Spliced pairs: the filter finds nothing in the chosen answer and foreign words in the rejected one."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_loopai.data.records import Message, Record
from mlx_loopai.data.samples import corpus
from mlx_loopai.data.splicing import spliced_pairs
from mlx_loopai.text.filter import clean
from mlx_loopai.text.korean_only import STRICT
from mlx_loopai.text.measures import purity

CLEAN = "바닷가 마을에 작은 등대가 서 있었다. 밤이 오면 등대는 멀리까지 빛을 보냈다."


def record(answer: str, prompt: str = "이야기를 써 주세요.") -> Record:
    return Record((Message("user", prompt), Message("assistant", answer)), "chat", "domain", "rows.jsonl:1")


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 1), st.integers(0, 1000))
def test_the_filter_tells_the_two_answers_apart(share, seed):
    (pair,) = spliced_pairs([record(CLEAN)], share, seed).pairs
    chosen, rejected = pair.chosen.messages[-1].content, pair.rejected.messages[-1].content
    assert chosen == CLEAN
    assert not clean(chosen, STRICT).removed
    assert "foreign" in clean(rejected, STRICT).removed
    assert purity(rejected) < 1
    assert len(rejected.split()) == len(chosen.split())
    assert pair.prompt == pair.chosen.messages[:1]


def test_the_share_is_that_of_the_words():
    (pair,) = spliced_pairs([record(CLEAN)], 0.5, 0).pairs
    words = zip(CLEAN.split(), pair.rejected.messages[-1].content.split(), strict=True)
    assert sum(one != other for one, other in words) == 6  # of eleven words with two syllables


def test_the_foreign_words_are_of_many_kinds():
    rows = [record(CLEAN, f"{number}") for number in range(60)]
    told = [pair.rejected.messages[-1].content.split() for pair in spliced_pairs(rows, 0.3, 0).pairs]
    words = {word for text in told for word in text} - set(CLEAN.split())
    assert len(told) == 60
    assert len(words) > 100
    assert any(word.isascii() and word.islower() for word in words)
    assert any(not word.isascii() for word in words)


def test_a_seed_gives_the_same_pairs():
    rows = [record(CLEAN, f"{number}") for number in range(4)]
    first, again, other = (spliced_pairs(rows, 0.2, seed).pairs for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len({pair.rejected.messages[-1].content for pair in first}) > 1


def test_what_gives_no_pair_is_counted():
    called = record(CLEAN)
    rows = [
        record("Hello 여러분"),
        record("네."),
        Record((Message("assistant", CLEAN),), "text", "domain", "a:1"),
        replace(called, messages=(called.messages[0], Message("assistant", CLEAN, taught=False))),
    ]
    found = spliced_pairs(rows, 0.1, 0)
    assert found.pairs == ()
    assert found.dropped == {
        "the answer is not clean Korean": 1,
        "the answer has no Korean word of two syllables": 1,
        "the row does not end with an answer": 2,
    }


def test_stories_of_the_corpus_give_pairs():
    rows = corpus.general_records(40, 3)
    found = spliced_pairs(rows, 0.15, 0)
    assert len(found.pairs) + sum(found.dropped.values()) == len(rows)
    assert len(found.pairs) > 10
