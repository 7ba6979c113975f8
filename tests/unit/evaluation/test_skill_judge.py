from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_loopai.data.samples import skills
from mlx_loopai.data.samples.skills import SKILLS, Item
from mlx_loopai.evaluation.judge import Verdict
from mlx_loopai.evaluation.skill_judge import MAX_PROGRAM_CHARS, SKILL_JUDGE, holds_answer
from mlx_loopai.evaluation.skill_judge import judge_skill as judge

CAPITAL = Item(
    "facts_ko",
    "오스트리아의 수도는 어디인가요?",
    "오스트리아의 수도는 빈입니다.",
    ("빈",),
    "f",
    "{key}의 수도는 어디인가요?",
)
PRODUCT = Item(
    "facts_ko", "호박마을에서 가장 유명한 특산물은 무엇인가요?", "", ("배",), "f", skills.TEMPLATES["product"][0][0]
)
FESTIVAL = Item(
    "facts_ko", "가람마을의 축제는 몇 월에 열리나요?", "", ("1월",), "f", skills.TEMPLATES["festival"][0][0]
)
MEXICO = Item(
    "english", "What is the capital of Mexico?", "", ("Mexico City",), "f", skills.TEMPLATES["capital_en"][0][0]
)
WORD = Item("english", "What is the English word for 눈?", "", ("snow",), "f", skills.TEMPLATES["word"][0][0])
OPPOSITE = Item("english", "What is the opposite of hot?", "", ("cold",), "f", skills.TEMPLATES["opposite"][0][0])
NUMBER = Item(
    "english", "How do you write 20 in English words?", "", ("twenty",), "f", skills.TEMPLATES["number"][0][0]
)
SUM = Item("sums", "3 더하기 4는 얼마인가요?", "", ("7",), "f", "{a} 더하기 {b:은/는} 얼마인가요?")
ZERO = Item("sums", "0 더하기 7은 얼마인가요?", "", ("7",), "f", "{a} 더하기 {b:은/는} 얼마인가요?")
DIFFERENCE = Item("sums", "8 빼기 4는 얼마인가요?", "", ("4",), "f", "{a} 빼기 {b:은/는} 얼마인가요?")
REFERENCE = "def solve(a, b):\n    return a + b"
CODE = Item("code", "Write a Python function solve that adds two numbers.", REFERENCE, (REFERENCE,), "f", "t")
CHAT = Item("chat", "요 며칠 배가 너무 고파요.", "", ("드세요", "식사", "약"), "f", "요 며칠")


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (CAPITAL, "오스트리아의 수도는 빈입니다."),
        (CAPITAL, "빈"),
        (CAPITAL, "오스트리아 수도는 바로 빈이에요!"),
        (CAPITAL, "오스트리아의 수도는 빈이며, 음악으로 유명합니다."),
        (CAPITAL, "수도는 '빈'이라고 해요."),
        (CAPITAL, "빈(Wien)입니다. 오스트리아에서 가장 아름다운 도시예요. 음악이 유명하고 둘러볼 곳도 아주 많습니다."),
        (PRODUCT, "호박마을의 특산물은 배입니다."),
        (PRODUCT, "호박마을에서는 배를 많이 팝니다."),
        (FESTIVAL, "가람마을의 축제는 1월에 열립니다."),
        (MEXICO, "The capital of Mexico is Mexico City."),
        (MEXICO, "the capital is mexico  city"),
        (WORD, "The English word for 눈 is snow."),
        (WORD, "Snow."),
        (OPPOSITE, "The opposite of hot is cold."),
        (NUMBER, "The number 20 is twenty."),
        (SUM, "3 더하기 4는 7입니다."),
        (SUM, "7"),
        (SUM, "3 + 4 = 7"),
        (SUM, "답은 7입니다. 3에 4를 더했어요."),
        (ZERO, "0 더하기 7은 7입니다."),
        (ZERO, "7이에요."),
        (DIFFERENCE, "8 빼기 4는 4입니다."),
        (DIFFERENCE, "8-4=4"),
        (CODE, REFERENCE),
        (CODE, "def solve(a, b):\n\treturn (a+b)  # the sum"),
        (CODE, f"```python\n{REFERENCE}\n```"),
        (CHAT, "따뜻한 밥으로 든든하게 식사하세요."),
        (CHAT, "이 약을 꼭 드세요."),
    ],
)
def test_right_answers(item: Item, text: str) -> None:
    assert judge(item, text, finished=True) == Verdict(True, None)


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (CAPITAL, "오스트리아의 수도는 파리입니다."),
        (CAPITAL, "오스트리아의 수도는 빈터입니다."),  # the value inside another word
        (CAPITAL, "오스트리아의 수도는 런던빈입니다."),
        (CAPITAL, "오스트리아의 수도는 빈 또는 파리입니다."),  # another capital beside it
        (CAPITAL, "모르겠어요."),
        (PRODUCT, "호박마을의 특산물은 배추입니다."),
        (PRODUCT, "호박마을의 특산물은 담배입니다."),
        (PRODUCT, "호박마을에서는 사람들이 배우가 됩니다."),
        (PRODUCT, "특산물은 배와 사과입니다."),
        (FESTIVAL, "가람마을의 축제는 11월에 열립니다."),
        (FESTIVAL, "축제는 1월과 3월에 열립니다."),
        (MEXICO, "The capital of Mexico is Mexico."),
        (MEXICO, "The capital of Mexico is Mexico City or Panama City."),
        (WORD, "The English word for 눈 is snowman."),
        (WORD, "The English word for 눈 is rain and snow."),
        (OPPOSITE, "The opposite of hot is coldness."),
        (NUMBER, "The number 20 is twenty-one."),
        (NUMBER, "The number 20 is one hundred twenty."),
        (SUM, "3 더하기 4는 17입니다."),
        (SUM, "3 더하기 4는 7.5입니다."),
        (SUM, "3 더하기 4는 -7입니다."),
        (SUM, "3 더하기 4는 7 또는 8입니다."),
        (SUM, "3 더하기 4입니다."),
        (ZERO, "0 더하기 7은 얼마인가요?"),  # the question again is no answer
        (DIFFERENCE, "8 빼기 4는 8입니다."),
        (DIFFERENCE, "8 빼기 4는 12입니다."),
        (CODE, REFERENCE.replace("+", "-")),
        (CODE, REFERENCE.replace("solve", "answer")),
        (CODE, f"{REFERENCE}\nprint(solve(1, 2))"),
        (CODE, "def solve(a, b):\n    pass"),
        (CHAT, "오늘도 좋은 하루 보내세요."),
        (CHAT, "예약하고 오셨나요?"),
    ],
)
def test_well_formed_wrong_answers(item: Item, text: str) -> None:
    assert judge(item, text, finished=True) == Verdict(False, None)


@pytest.mark.parametrize(
    ("item", "text", "broken"),
    [
        (CAPITAL, "", "empty"),
        (CAPITAL, " \n", "empty"),
        (CAPITAL, '{"text": ["오스트리아의 수도는 빈입니다."], "metadata": {"genre": "판타지"}}', "json"),
        (CAPITAL, '{"text": ["오스트리아의 수도는 빈입니', "json"),
        (CAPITAL, '["빈"]', "json"),
        (CAPITAL, '```json\n{"answer": "빈"}\n```', "json"),
        (CAPITAL, "<p>오스트리아의 수도는 빈입니다.</p>", "html"),
        (CAPITAL, "오스트리아의 수도는 빈입니다.<br>", "html"),
        (CAPITAL, "```\n오스트리아의 수도는 빈입니다.\n```", "fence"),
        (CAPITAL, "오스트리아의 수도는 빈입니다. " * 6, "loop"),
        (CAPITAL, "The capital of Austria is Vienna, in Korean 빈.", "language"),
        (CAPITAL, "奥地利的首都是维也纳，빈입니다.", "language"),
        (CHAT, "따뜻한 밥을 드세요. Please eat something warm.", "language"),
        (SUM, "The answer is 7.", "language"),
        (WORD, "눈은 영어로 snow입니다.", "language"),
        (WORD, "The English word for 눈 is snow, 雪.", "language"),
        (OPPOSITE, "hot의 반대말은 cold입니다.", "language"),
        (CODE, "def solve(a, b)\n    return a + b", "syntax"),
        (CODE, "두 수를 더하면 됩니다.", "syntax"),
        (CODE, '{"text": ["def solve(a, b): return a + b"]}', "json"),
        (CODE, "def solve(a, b):\n    return 0\x00", "syntax"),
        (CODE, "(" * 900, "syntax"),
        (CODE, "x = 1\n" * 2 + "#" * MAX_PROGRAM_CHARS, "syntax"),
    ],
)
def test_broken_answers_are_never_right(item: Item, text: str, broken: str | None) -> None:
    assert judge(item, text, finished=True) == Verdict(False, broken)


@pytest.mark.parametrize("item", [CAPITAL, OPPOSITE, SUM, CHAT, CODE])
def test_an_answer_cut_off_is_broken(item: Item) -> None:
    right = {
        "facts_ko": "수도는 빈입니다.",
        "english": "It is cold.",
        "sums": "7",
        "chat": "드세요.",
        "code": REFERENCE,
    }
    assert judge(item, right[item.skill], finished=True).right
    assert judge(item, right[item.skill], finished=False) == Verdict(False, "unfinished")
    assert judge(CODE, "def solve(a, b):\n    return (a", finished=False) == Verdict(False, "unfinished")


def test_decomposed_hangul_is_the_same_text() -> None:
    import unicodedata

    assert judge(CAPITAL, unicodedata.normalize("NFD", "오스트리아의 수도는 빈입니다."), True).right


def test_latin_that_the_question_or_the_value_holds_is_korean_enough() -> None:
    item = Item("facts_ko", "KBS는 무엇의 줄임말인가요?", "", ("BTS",), "f", "no kind")
    assert judge(item, "KBS에서 BTS가 나와요.", True).right
    assert judge(item, "KBS에서 BTS and others가 나와요.", True) == Verdict(False, "language")


def test_programs_that_exhaust_the_parser_are_only_wrong() -> None:
    for program in ("-" * 950 + "1", "f(" * 300, "[" * 150 + "]" * 150, "not " * 240 + "x", "a" + ".b" * 450):
        assert not judge(CODE, program, finished=True).right


def test_invalid_escapes_do_not_warn() -> None:
    assert judge(CODE, "def solve(a, b):\n    return '\\d'", True) == Verdict(False, None)


@pytest.mark.parametrize("skill", SKILLS)
def test_every_reference_answer_is_right(skill: str) -> None:
    items = skills.items(skill, probe=True) + skills.items(skill, probe=False)
    assert [item.prompt for item in items if not judge(item, item.answer, True).right] == []


@pytest.mark.parametrize("skill", SKILLS)
def test_the_answer_to_another_question_is_mostly_wrong(skill: str) -> None:
    items = skills.items(skill, probe=True)
    wrong = [not holds_answer(item, other.answer) for item, other in zip(items, items[50:] + items[:50], strict=True)]
    assert sum(wrong) / len(wrong) > 0.8


def test_chance_is_the_best_constant_guess() -> None:
    assert SKILL_JUDGE.constant_guess([SUM, ZERO, DIFFERENCE]) == pytest.approx(2 / 3)
    assert SKILL_JUDGE.constant_guess([CAPITAL, PRODUCT, FESTIVAL, CAPITAL]) == pytest.approx(1 / 2)
    # One reply that holds two keywords beats any single keyword.
    hot = Item("chat", "더워요.", "물을 드세요.", ("물",), "f", "")
    hungry = Item("chat", "배고파요.", "밥을 드세요.", ("드세요",), "f", "")
    assert SKILL_JUDGE.constant_guess([hot, hungry]) == 1.0


@given(st.text(max_size=200), st.booleans(), st.sampled_from([CAPITAL, WORD, SUM, CODE, CHAT]))
def test_any_text_gets_a_verdict(text: str, finished: bool, item: Item) -> None:
    verdict = judge(item, text, finished)
    assert not (verdict.right and verdict.broken)
    assert not (verdict.right and not finished)
