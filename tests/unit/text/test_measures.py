from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.text import measures as m

STORY = (
    "비가 그친 저녁, 골목 끝 국숫집에 불이 켜졌다. 주인은 젖은 우산을 털며 손님을 맞았고, 냄비에서는 김이 올랐다. "
    "아이는 창가에 앉아 기차가 지나가는 소리를 세었다. 하나, 둘, 셋. 아직 아버지는 오지 않았다."
)


def test_purity_counts_letters_only() -> None:
    assert m.purity("나는 2024년에, 갔다!") == 1.0
    assert m.purity("나는AI") == 0.5
    assert m.purity("123 !?") == 0.0
    assert m.purity("") == 0.0


def test_purity_does_not_depend_on_the_normal_form() -> None:
    text = "한국어 text"
    assert m.purity(unicodedata.normalize("NFD", text)) == m.purity(text)


def test_purity_original_is_over_visible_characters() -> None:
    assert m.purity_original("가나 1.") == 0.5
    assert m.purity_original(" ") == 0.0


def test_foreign_letters_per_thousand() -> None:
    assert m.foreign_per_1000_letters("가나다ab漢字п") == {"latin": 250.0, "han": 250.0, "cyrillic": 125.0}
    assert m.foreign_per_1000_letters(STORY) == {}


def test_line_pass_rate() -> None:
    english = "The man walked slowly and opened the door"
    assert m.line_pass_rate([STORY, english, f"{STORY}\n{english}", ""]) == 0.25
    assert m.line_pass_rate([]) == 0.0


def test_word_pass_rate_follows_the_source_definition() -> None:
    mixed = "그는 천천히 walked 하면서 문을 열었다"
    assert m.word_pass_rate([STORY, mixed]) == 0.5
    assert m.word_pass_rate([STORY, mixed], english_words=["house"]) == 1.0
    assert m.word_pass_rate(["그는 천천히 走了过去 하면서 문을 열었다"]) == 1.0
    assert m.word_pass_rate(["only English words are in here"]) == 0.0


def test_word_pass_rate_ko_sees_every_script() -> None:
    bad = ["그는 走了过去 문을 열었다", "그는 walked 문을", "привет 하고 말했다", "かな 문자", ""]
    good = [STORY, "은화(銀貨)처럼 맑소", "AI와 K-pop, 3kg"]
    assert m.word_pass_rate_ko(bad + good) == len(good) / (len(bad) + len(good))
    assert m.word_pass_rate_ko(["그는 walked 라고 썼다"], prompts=["walked 를 써라"]) == 1.0
    with pytest.raises(ValueError, match="one prompt per text"):
        m.word_pass_rate_ko(["가"], prompts=[])


def test_distinct_and_rep() -> None:
    assert m.distinct_n(["가나가나"], 2) == pytest.approx(2 / 3)
    assert m.rep_n("가나가나", 2) == pytest.approx(1 / 3)
    assert m.distinct_n(["가나", "가나"], 2) == 0.5
    assert m.distinct_n([], 2) == 0.0
    assert m.rep_n("가", 4) == 0.0
    assert m.rep_n("좋은 날이다. " * 20, 4) > 0.9 > m.rep_n(STORY, 4)
    with pytest.raises(ValueError, match="at least one"):
        m.rep_n("가", 0)


@given(st.text(alphabet="가나b ", max_size=40))
def test_longest_repeat_is_what_brute_force_finds(text: str) -> None:
    normal = unicodedata.normalize("NFC", text)
    lengths = [
        size
        for size in range(len(normal))
        if len({normal[i : i + size] for i in range(len(normal) - size + 1)}) < len(normal) - size + 1
    ]
    found = m.longest_repeat(text)
    assert len(found) == max(lengths, default=0)
    assert normal.count(found) >= 1
    assert found == "" or normal.find(found, normal.find(found) + 1) > 0


@pytest.mark.parametrize(
    "text",
    [
        "사과 사과 사과 사과",
        "사과, 사과, 사과, 사과.",
        "나는 간다. 나는 간다. 나는 간다. 나는 간다.",
        STORY + " 그리고 그는" * 6,
        "가나다라마" * 8,
        "아" * 60,
        "1. 나는 행복한 사람이다.\n2. 나는 행복한 사람이다.\n3. 나는 행복한 사람이다.",
        "좋아요! " * 4,
    ],
)
def test_loops(text: str) -> None:
    assert m.is_looping(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "네.",
        STORY,
        "ㅋㅋㅋㅋㅋㅋ",
        "하하하하! 정말 웃기네요.",
        "가슴이 두근두근두근두근 뛰었다. 그는 아무 말도 하지 못했다.",
        "제목\n--------------------------------\n본문이 여기 있다.",
        "별 하나에 추억과\n별 하나에 사랑과\n별 하나에 쓸쓸함과\n별 하나에 동경과\n별 하나에 시와\n별 하나에 어머니, 어머니,",
        "기다리고 기다리고 또 기다렸다.",
        "그래서……………………………… 끝.",
    ],
)
def test_no_loops(text: str) -> None:
    assert not m.is_looping(text)


@pytest.mark.parametrize(
    "text", ['{"a": 1}', ' \n{\n  "이름"', "[1, 2]", '[{"a"', "```json\n안녕", '```\n{"a":1}\n```', "{'a': 1}", "{}"]
)
def test_json_shaped(text: str) -> None:
    assert m.json_shaped(text)


@pytest.mark.parametrize(
    "text", ["", "안녕", "[목차]\n1. 봄", "[1] 첫째 각주", "{봄}은 온다", "```py\nx\n```", '답: {"a"']
)
def test_not_json_shaped(text: str) -> None:
    assert not m.json_shaped(text)


@given(st.text())
def test_measures_take_any_text(text: str) -> None:
    assert 0 <= m.purity(text) <= 1
    assert 0 <= m.purity_original(text) <= 1
    assert 0 <= m.rep_n(text, 4) <= 1
    m.is_looping(text)
    m.json_shaped(text)
