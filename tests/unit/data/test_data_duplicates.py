from __future__ import annotations

import random
from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.data.duplicates import TextIndex, exact_groups, near_groups, normalised
from mlx_loopai.text.hangul import nfc

STORY = "옛날 어느 마을에 마음씨 고운 나무꾼이 살았습니다. 하루는 산에서 사슴을 만났는데 사슴이 살려 달라고 빌었습니다."


def test_equal_but_for_case_spaces_and_marks() -> None:
    assert exact_groups(["안녕, 하세요!", "다른 글", "안녕하세요", "Hello", "hello."]) == [[0, 2], [3, 4]]


def test_decomposed_hangul_is_the_same_text() -> None:
    assert normalised("\u1112\u1161\u11ab\u1100\u1173\u11af") == "한글"


@given(st.text())
def test_letters_and_digits_are_left(text: str) -> None:
    assert normalised(text) == "".join(filter(str.isalnum, nfc(text).casefold()))


def test_texts_are_compared_up_to_a_place() -> None:
    texts = ["하나", "둘", "하나", "셋", "둘", "하나"]
    with TextIndex() as index:
        index.extend(texts)
        with closing(index.exact()) as groups:
            assert groups.lists() == [[0, 2, 5], [1, 4]]
        with closing(index.exact(first_texts=4)) as groups:
            assert groups.lists() == [[0, 2]]


def test_a_changed_word_is_near_and_another_story_is_not() -> None:
    other = "바닷가 등대에는 늙은 등대지기와 고양이 한 마리가 살면서 밤마다 배들에게 불을 밝혀 주었습니다."
    assert near_groups([STORY, other, STORY.replace("빌었습니다", "빌었다")]) == [[0, 2]]
    assert near_groups([STORY, STORY.replace("빌었습니다", "빌었다")], threshold=0.99) == []


@given(st.lists(st.text(alphabet="가나다라마바사", max_size=12), max_size=12))
def test_exact_repeats_are_near_too(texts: list[str]) -> None:
    near = [set(group) for group in near_groups(texts)]
    for group in exact_groups(texts):
        assert any(set(group) <= found for found in near)


def test_pairs_are_found_as_an_exhaustive_comparison_finds_them() -> None:
    generator = random.Random(0)
    words = ["".join(generator.choices("가나다라마바사아자차카타파하", k=4)) for _ in range(60)]
    texts = [" ".join(generator.choices(words, k=40)) for _ in range(30)]
    texts += [text[:-9] + "끝" for text in texts[:10]]
    shingles = [{text[i : i + 5] for i in range(len(text) - 4)} for text in map(normalised, texts)]
    alike = {
        (i, j)
        for i in range(len(texts))
        for j in range(i)
        if len(shingles[i] & shingles[j]) >= 0.8 * len(shingles[i] | shingles[j])
    }
    found = {(i, j) for group in near_groups(texts) for i in group for j in group if j < i}
    assert alike
    assert found == alike
