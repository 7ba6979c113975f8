"""Runs of foreign text: which go and which stay, as a whole, in one piece and in pieces."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_loopai.text.filter import Filter, Policy, clean
from mlx_loopai.text.words import quoted_words
from tests.bench_programs import bench_program

ROOT = Path(__file__).parents[3]
RUNS = Path(__file__).parent / "foreign_runs"
SHARED = ROOT.parent / "shared" / "cases"
LEAST = 0.98


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return bench_program("filter_runs")


@pytest.mark.parametrize("name", ["tuned.txt", "held_out.txt"])
def test_labelled_runs(bench: ModuleType, name: str) -> None:
    scores = bench.score(RUNS / name)
    assert scores.half == 0
    assert min(scores.gone_precision, scores.gone_recall, scores.kept_precision, scores.kept_recall) >= LEAST


def test_labelled_runs_are_many(bench: ModuleType) -> None:
    assert sum(len(runs) for path in RUNS.glob("*.txt") for _, runs in bench.labelled(path)) >= 600


@pytest.mark.skipif(not (SHARED / "filter.jsonl").exists(), reason="needs ../shared/cases")
def test_examples_of_the_report() -> None:
    rows = [json.loads(line) for line in (SHARED / "filter.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["in"]: clean(row["in"]).text for row in rows} == {row["in"]: row["want"] for row in rows}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # A sentence goes with its marks, wherever it stands.
        ("네. I'm afraid I can't do that, my friend. 다른 길을 찾죠.", "네. 다른 길을 찾죠."),
        ("아래를 보세요: (this is only a sketch.) 초안입니다.", "아래를 보세요: 초안입니다."),
        ("그는 웃었다 and went home.", "그는 웃었다."),
        ("밥을 먹는데 it started to rain... 그래서 뛰었다.", "밥을 먹는데... 그래서 뛰었다."),
        ("제목: 밤\n\nThe night was young.\n\n별이 떴다.", "제목: 밤\n\n별이 떴다."),
        ("彼は言った「行こう」。그는 웃었다.", "그는 웃었다."),
        ("그 순간, everything went dark. 아무도 없었다.", "그 순간, 아무도 없었다."),
        ("learning rate 값과 loss 값을 적는다.", "learning rate 값과 loss 값을 적는다."),
        ("<The Sound of Music>을 봤다. <b>끝</b>", "<The Sound of Music>을 봤다. 끝"),
        # A foreign sentence goes with the Korean words it mentions; what was said in quotation marks stays.
        ('The word "사과" means apple.', ""),
        ('"사과" means apple. 사과는 과일이다.', "사과는 과일이다."),
        ('"사과"(sagwa) means apple in Korean.', ""),
        ("My name is 김철수 and I live in 서울. 반갑습니다.", "반갑습니다."),
        ('The Korean word is "사과".', ""),
        ('Sure, here\'s the story: "옛날에 왕이 살았다."', '"옛날에 왕이 살았다."'),
        ('"정말?" she asked. 그는 웃었다.', '"정말?" 그는 웃었다.'),
        ("안녕하세요, my name is 민수입니다.", "안녕하세요, 민수입니다."),
        # The label of a line, a bullet and a joint announce nothing without what follows.
        ("철수: 안녕!\n영희: Hello, my friend!\n철수: 뭐라고?", "철수: 안녕!\n철수: 뭐라고?"),
        ("[철수] Hello there!\n**영희**: I am here.\n민수) Where are you?\n끝", "끝"),
        ("철수: Hello! 반가워.", "철수: 반가워."),
        ("그는 말했다: I am so tired of this.", "그는 말했다:"),
        ("- She was gone.\n1. This is the first step.\n> and the last one\n- 끝", "- 끝"),
        ("그는 웃었다; she was happy.\n그는 울었다, and went home.", "그는 웃었다.\n그는 울었다."),
        ("그의 눈은 — her eyes were shining — 빛났다.", "그의 눈은 — 빛났다."),
        ("나는 행복하다. / I am happy.\nI am happy / 나는 행복하다", "나는 행복하다.\n나는 행복하다"),
        ("그는 포기했다 (he gave up).", "그는 포기했다."),
        ("She was happy :) 그는 웃었다 :)", "그는 웃었다 :)"),
        # What is set beside Korean, or counted, or named as an expression, stays.
        ("영어: I love you.\n한국어: 사랑해.", "영어: I love you.\n한국어: 사랑해."),
        ("I am a boy. → 나는 소년이다.", "I am a boy. → 나는 소년이다."),
        ("| The cat is on the mat. | 고양이 |", "| The cat is on the mat. | 고양이 |"),
        ("get up: 일어나다\n- walk away - 떠나다", "get up: 일어나다\n- walk away - 떠나다"),
        ("가격: 3 USD per person", "가격: 3 USD per person"),
        ("第1장 1月 2日\nLee et al. (2020)에 있다.", "第1장 1月 2日\nLee et al. (2020)에 있다."),
        ("There is/are 구문과 나이키의 Just do it 캠페인", "There is/are 구문과 나이키의 Just do it 캠페인"),
        # A number of a foreign sentence goes with it; one of the Korean sentence stays.
        ("그는 갔다. 10 years ago, she died. 그는 울었다.", "그는 갔다. 그는 울었다."),
        ("He was born in 1990. 그는 1990년에 났다.", "그는 1990년에 났다."),
        ("It costs $5.\nWord count: 120\n끝", "끝"),
        ("정답은 42. The answer is 42. 끝", "정답은 42. 끝"),
        ("그 사람의 50% of people agree 반이다.", "그 사람의 50% 반이다."),
        ("Scene 1. 카페 안", "Scene 1. 카페 안"),
        ("**Note**: This story was generated. 이야기다.", "이야기다."),
        ("그는 非常히 기뻤다. 社會적 문제", "그는 非常히 기뻤다. 社會적 문제"),
        # Marks of chat formats go, unless a sentence names them.
        ("<s>[INST] 이야기를 써 줘. [/INST] 옛날에 왕이 살았다.</s>", "이야기를 써 줘.\n옛날에 왕이 살았다."),
        ("<<SYS>>\n당신은 작가다.\n<</SYS>>\n### Response:\n옛날[EOS]", "당신은 작가다.\n옛날"),
        ("[MASK] 토큰과 [SEP]를 쓴다. `[INST]`", "[MASK] 토큰과 [SEP]를 쓴다. `[INST]`"),
        # No mark is left where it would end nothing.
        ('"안녕," she said. 그는 웃었다.', '"안녕," 그는 웃었다.'),
        ("(웃음) Ha ha ha! 그는 웃었다 (크게) and left.", "(웃음) 그는 웃었다 (크게)."),
        # What goes between two letters leaves a space.
        ("그는走了过去문을 열었다", "그는 문을 열었다"),
        # The last sentence of a run is held by what follows it, the others are not.
        ("The book is old. Python은 새롭다.", "Python은 새롭다."),
        ("나는 Rust. It is hard to learn. 그래도 좋다.", "나는 Rust. 그래도 좋다."),
        # Brackets and colons explain; emphasis names.
        ("깊은 복사 (deep copy) 를 쓴다.", "깊은 복사 (deep copy) 를 쓴다."),
        ("거절하다: to refuse, 받지 않다", "거절하다: to refuse, 받지 않다"),
        ("전환(context\nswitch) 비용", "전환(context\nswitch) 비용"),
        ("`x` 모듈의 public 함수", "`x` 모듈의 public 함수"),
        # Lines of a program, with what closes their blocks.
        ('function hi() {\n  alert("안녕");\n}\n\n끝', "끝"),
        ("if (n > 0) { n -= 1; }\n끝", "끝"),
        ("x = [1, 2]\n끝", "x = [1, 2]\n끝"),
        ("import json\nwith open(path) as file:\n    rows = file.read()\n이렇게 읽는다.", "이렇게 읽는다."),
        ("print(값)은 값을 보여 준다.", "print(값)은 값을 보여 준다."),
        # Addresses with Hangul, thinking, chat tokens and entities.
        ("한글 주소 https://나라.한국/길?이름=값 끝", "한글 주소 끝"),
        # What hangs on an address goes with it; the address that a sentence is about stays.
        ("https://a.kr/위키/한글_(문자)에서", ""),
        ("https://a.kr/b에서 봤다", "봤다"),
        ("내용은 https://a.kr/b 을 보세요.", "내용은 보세요."),
        ("집 (www.a.kr)에서는 https://a.kr 를 통해 본다.", "집에서는 본다."),
        ("https://a.kr에 따르면 그는 왕이다.", "그는 왕이다."),
        ("https://a.kr, https://b.kr 또는 https://c.kr 로 온다.", "온다."),
        ("그는 https://a.kr 이라는 곳을 안다.", "그는 곳을 안다."),
        ("주소는 https://a.kr입니다. 끝", "주소는 https://a.kr입니다. 끝"),
        ('"https://a.kr"이라고 적었다.', '"https://a.kr"이라고 적었다.'),
        ("글이다.\n- **공식 홈페이지:** https://a.kr\n끝 (출처: https://b.kr)", "글이다.\n끝"),
        ("출처: https://a.kr 그리고 책", "출처: 그리고 책"),
        ("영상은 유튜브 https://a.kr 에 있다.", "영상은 유튜브에 있다."),
        ("'https://a.kr'에서 본다. \"https://b.kr\" 끝", "본다. 끝"),
        ("▶ https://a.kr\n블로그 주소 - https://b.kr\n- 끝\n1. 하나", "- 끝\n1. 하나"),
        ("git clone https://a.kr/b.git\n받는다.", "받는다."),
        ("<https://a.kr>를 본다. (https://a.kr 참조)", "본다."),
        # Of a link its text stays, of a picture nothing.
        ('[여기](https://a.kr/b)를 누른다. ![그림](https://a.kr/c.png "이름")', "여기를 누른다."),
        ("[둘째 장](ch02.md)과 `[가](https://a.kr)`", "[둘째 장](ch02.md)과 `[가](https://a.kr)`"),
        ("멀리서 a strange sound 가 들렸다.", "멀리서 a strange sound 가 들렸다."),
        ("E-mail: kim@a.kr", "E-mail: kim@a.kr"),
        ("韓·美 정상회담과 北·中·러 관계", "韓·美 정상회담과 北·中·러 관계"),
        ("import numpy as np\nx = np.ones(3)\ny = 3\n끝", "끝"),
        ('{"답": "네. How are you?"}', '{"답": "네."}'),
        ("<|im_start|>assistant\n네.<|im_end|>\n<start_of_turn>user\n왜?", "네.\n왜?"),
        ("<|im_start|>assist 한다.", "assist 한다."),
        ("<think>\nHmm, 음.\n</think>\n\n답.<|im_end|>", "답."),
        ("<｜end▁of▁sentence｜>끝 <|표|>", "끝 <|표|>"),
        ("&quot;가&quot;&nbsp;&#xB098;&#45796; &amp;lt;b> `&lt;` &foo; &#96;", '"가" 나다 `&lt;` &foo; &#96;'),
        ("3 &lt; 5 &amp;&amp; 7 &gt; 2", "3 < 5 && 7 > 2"),
    ],
)
def test_what_becomes_of_runs(text: str, expected: str) -> None:
    assert clean(text).text == expected
    assert clean(expected).text == expected


def test_what_the_user_wrote_stays() -> None:
    quoted = Policy(quoted=quoted_words("Say: the sea was calm"))
    assert clean("The sea was calm. 바다", quoted).text == "The sea was calm. 바다"
    assert clean("The sea was angry today. 바다", quoted).text == "바다"


def test_a_long_run_goes_in_bounded_memory() -> None:
    scanner = Filter()
    out = scanner.feed("처음 ")
    for _ in range(3000):
        out += scanner.feed("word and another ")
        assert sum(len(getattr(stage, "_held", "")) for stage in scanner._stages if hasattr(stage, "_left")) < 5000
    assert out + scanner.feed("끝이다.") + scanner.close() == "처음 끝이다."


# Words of one clause stand in no other, and not in the Korean.
CLAUSES = (
    "He walked away without saying anything.",
    "they were waiting under that bridge",
    "Sure, please continue your wonderful story!",
    "Ich habe gestern deinen Brief gelesen.",
    "nous sommes arrivés trop tard",
    "他们昨天离开了城市。",
    "夜が明けるまで歩いた",
    "Она молча закрыла дверь.",
)
KOREAN = (
    "바람이 불었다.",
    "그는 고개를 들었다",
    "Python을 배웠다.",
    "(그날 밤)",
    "“가자!”",
    "눈, 비,",
    "은화(銀貨)",
    "3 km",
)
JOINTS = (" ", "\n", "\n\n", "… ", " - ", ", ", " “", "” ", " (", ") ", ": ", "")
MIXED = st.lists(st.sampled_from(KOREAN + JOINTS + tuple(f" {clause} " for clause in CLAUSES)), max_size=14)


@given(MIXED.map("".join), st.data())
@settings(max_examples=400, deadline=None, derandomize=True)
def test_no_clause_is_half_removed(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    scanner = Filter()
    out = "".join(scanner.feed(text[start:end]) for start, end in pairwise([0, *cuts, len(text)])) + scanner.close()
    assert out == clean(text).text
    assert clean(out).text == out
    for clause in CLAUSES:
        words = re.findall(r"\w+", clause)
        counts = {len(re.findall(rf"(?<!\w){word}(?!\w)", out)) for word in words}
        assert len(counts) == 1 or " ".join(words) not in " ".join(re.findall(r"\w+", text)), (clause, out)
