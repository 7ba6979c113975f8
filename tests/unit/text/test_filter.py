from __future__ import annotations

import re
import string
import unicodedata
from itertools import pairwise

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_loopai.text.characters import PLAIN
from mlx_loopai.text.characters import _Kind as Kind
from mlx_loopai.text.characters import _kind as kind
from mlx_loopai.text.filter import RULES, Filter, Policy, clean
from mlx_loopai.text.seams import MARKS, extends
from mlx_loopai.text.words import quoted_words

# Pieces that rules are made of, so that random texts build, break and nest them.
_PIECES = (
    "가 나다 는 한글 < > </ <! <!-- --> <b> </b> <b <script> </script> <br> <TV http https :// http:// www. . / a b AI "
    'hello kg 1 日 漢字 ( ) [ ] “ ” " ‘ ’ こ ー п α β é e \u0301 \u0308 \u1100 \u1161 \u11a8 \u200b \u200d \ufe0f \u20e3 '
    "😀 👨\u200d👩\u200d👧 🇰 🇷 🏻 ♥ ♂ ★ ` ``` ```` ! , … ~ - ' @ : 。 ， 「 」 \u202e \ufeff \u0338 ª ㅋㅋ ·"
)
PIECES = st.sampled_from(
    [*_PIECES.split(" "), " ", "  ", "\n", "\n\n", "\t", "\r\n", "\u3000", "\x00", "\x01", "\ud800"]
)
# Pieces of what runs are made of and bound by.
RUN_PIECES = st.sampled_from(
    "The sea was calm.|Sorry, |I love you |they went| suddenly |Python|Docker|走了过去|雨が降る。|Он ушёл.|Je ne sais pas.|"
    "라고 |를 |은 |한국어 |가|했다. |“|”|\"|'|(|)|「|」|*|_|: |, |... |!|¿| ?|\n|\n    |# |@|#|`x`|`|def f(x): return 1|"
    "import os|print(|x = |{|}|;|&lt;|&amp;|&#|12|kg|中|http://한국.kr/가|<think>|</think>|<|im_end|>|<The Sea>|- |1. |"
    "...................".split("|")
)
# Pieces of what stands around runs and goes with them.
EDGE_PIECES = st.sampled_from(
    "그는 |사과|한국어 |철수: |영희 : |[철수] |철수) |출처: |링크: |은 |이 |을 |에서 |라고 |를 통해 |했다.|참조|The word |means apple.|"
    "Hello!|and left|she said. |suddenly |je ne sais pas|Mr. |et al. |走了过去。|月|第|日|ありがとう|Привет|[INST]|[/INST]|<<SYS>>|"
    "### Response:\n|<b>|</b>|<br>|<|im_start|>|assistant\n|http://a.kr|https://|www.a.kr/b|www.|http://한국.kr/가|kim@a.kr|"
    "[링크](https://a.kr)|(he said)|(銀貨)|# |## |> |→ | = | - | / |—|~| :) |3.5|1|é|α|ㅋㅋ|♥|😀|\u200b".split("|")
)
TEXTS = (
    st.lists(PIECES, max_size=60).map("".join)
    | st.lists(RUN_PIECES | PIECES, max_size=24).map("".join)
    | st.lists(EDGE_PIECES | RUN_PIECES | PIECES, min_size=2, max_size=14).map("".join)
    | st.text(max_size=60)
)
POLICIES = st.builds(
    Policy,
    latin=st.sampled_from(["prose", "acronyms", "keep"]),
    han=st.sampled_from(["gloss", "keep", "drop"]),
    emoji=st.sampled_from(["drop", "keep"]),
)
# The expressions that let text pass which needs no look.
RUNS = (
    "characters._NO_EMOJI",
    "characters._COMPOSED",
    "markup._ATTRIBUTES",
    "seams._SETTLED",
    "runs.ASCII_RUN",
    "filter._INERT",
)
PROSE = st.text(alphabet="가나다라마바사 .,!?…“”‘’「」『』《》〈〉·~―ㅋㅠ\n\t0123456789()%★☆♥※©®☞♡♪", max_size=120)


@given(TEXTS, POLICIES, st.data())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_every_split_gives_the_batch_result(text: str, policy: Policy, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    scanner = Filter(policy)
    out = "".join(scanner.feed(text[start:end]) for start, end in pairwise([0, *cuts, len(text)])) + scanner.close()
    whole = clean(text, policy)
    assert out == whole.text
    assert {rule: count for rule, count in scanner.removed.items() if count} == whole.removed
    assert scanner.removed_share == whole.removed_share


@given(
    st.lists(
        PIECES
        | st.sampled_from(
            ["나는 ", "집에(가) ", "가(銀貨)는 ", "(나 다) ", "가(家 나)", "AI는 ", "HTTP", '"네" ', "( ", "1 "]
        ),
        max_size=60,
    ).map("".join),
    POLICIES,
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_runs_pass_as_their_characters_would_one_by_one(text: str, policy: Policy) -> None:
    fast = clean(text, policy)
    with pytest.MonkeyPatch.context() as patched:
        for run in RUNS:
            patched.setattr(f"mlx_loopai.text.{run}", re.compile("(?!)"))
        assert clean(text, policy) == fast


def test_plain_characters_are_of_no_interest_to_any_stage() -> None:
    plain = re.compile(f"[{PLAIN}]")
    chars = [chr(code) for code in range(0x110000) if plain.match(chr(code))]
    assert len(chars) > 11_172
    assert {kind(char) for char in chars} <= {Kind.PLAIN, Kind.KEYCAP_BASE}
    assert not [char for char in chars if extends(char) or not unicodedata.is_normalized("NFC", char)]
    assert {char for char in chars if char.isspace()} == set(" \t\r\n")
    assert not MARKS & set(chars)
    assert {char for char in chars if regex.match(r"[\p{Latin}\p{Greek}\p{Han}]", char)} == set(string.ascii_letters)
    assert not [char for char in chars if regex.match(r"[\p{L}--[\p{Latin}\p{Hangul}\p{Common}]]", char, regex.V1)]


@given(TEXTS, POLICIES)
@settings(max_examples=500, deadline=None, derandomize=True)
@example("<<b>b>", Policy())
@example("etc.<b>가", Policy())
@example("I😀~", Policy())
@example("n lewww.", Policy())
@example("수:http://П", Policy(latin="keep"))
@example("[[INST]INST]", Policy())
@example("[INST]에 <k>。", Policy())
@example("<b>##Response:", Policy())
@example("Aa:y:HTTP://", Policy())
@example("A%HTTP://㐀", Policy())
@example("def HTTP://한국", Policy())
@example("import 0<A>", Policy())
@example("<A0. <I!>", Policy())
@example("<走`<A>", Policy())
@example("こ가http://가", Policy())
@example("こ♥http://가", Policy())
@example("ªwww.</script>1", Policy())
@example("ͺ<A>@0", Policy())
@example("Ά<A>ΆA", Policy(latin="keep"))
@example("@ϢA", Policy(latin="keep"))
@example("<日b>", Policy())
@example("<b\u200d3…>", Policy())
@example("http<b></b>://a.kr", Policy())
@example("he<b></b>llo", Policy())
@example("βwww.。", Policy())
@example("aこ\u0301a", Policy())
@example("가<b></b>\u11a8", Policy())
@example("<b " + "<i>" * 9 + "가" * 500 + ">", Policy())
@example("e" + "\u0344" * 40, Policy())
def test_cleaning_twice_changes_nothing(text: str, policy: Policy) -> None:
    once = clean(text, policy)
    twice = clean(once.text, policy)
    assert twice.text == once.text
    assert twice.removed == {}
    assert unicodedata.is_normalized("NFC", once.text)
    assert set(once.removed) <= set(RULES)


@given(PROSE)
def test_korean_prose_is_unchanged(text: str) -> None:
    cleaned = clean(text)
    assert cleaned.text == text
    assert (cleaned.removed, cleaned.removed_share) == ({}, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        "<박제가 되어버린 천재>를 아시오? 3 < 5 이고 <한국일보> 기사다.",
        "은화(銀貨)처럼 맑소. 이상(李箱, 1910 ~ 1937), 나라[國], 망가〔漫畵〕",
        "AI, TV, SNS, PC방, K-pop, MP3, iPhone, Wi-Fi, 3kg, 10km/h, 오후 3 p.m.",
        "  들여쓴  줄\n\n\n세 줄 띄고\t탭",
        "“그래.” ‘응’ 「시」 『책』 《글》 〈노래〉 …… ― · ~ ㅋㅋㅋ ㅠㅠ",
        "★☆♥※©®™ ♡ ♪ ☞ ▶ → ① ㈜ ℃ ㎏ Ⅱ 플러스 α",
        "김〇〇 씨",
        "`변수`를 쓰고 `if let <T> http://a.kr` 을 쓴다. `Vec<u8>`\n* **crate** 를 derive 하는 smart pointer 타입",
        "<TV 동물농장>과 <K팝 스타>",
        "윈도 줄\r\n다음 줄\r\n",
    ],
)
def test_what_stays(text: str) -> None:
    assert clean(text).text == text


@pytest.mark.parametrize(
    ("text", "expected", "removed"),
    [
        ("그는 천천히 走了过去 문을 열었다", "그는 천천히 문을 열었다", {"foreign": 1}),
        ("가족👨\u200d👩\u200d👧이 🇰🇷 1️⃣ 👍🏻 좋아♥️", "가족이 좋아♥", {"emoji": 5}),
        ("안녕 😀! 반가워😀.", "안녕! 반가워.", {"emoji": 2}),
        ("😀 첫머리", "첫머리", {"emoji": 1}),
        ("  😀 들여쓰기", "  들여쓰기", {"emoji": 1}),
        ("설명:\n\n```py\nprint(1)\n```\n\n끝", "설명:\n\n끝", {"code": 1}),
        ("앞 ```열린 울타리\nx", "앞", {"code": 1}),
        ("````\n```\n안\n````\n뒤", "뒤", {"code": 1}),
        ("그는 suddenly 문을 She walked 열었다", "그는 문을 열었다", {"foreign": 2}),
        ("`the` 는 and the 그리고 ``and the`` 와 `the", "`the` 는 그리고 `` `` 와 `the", {"foreign": 2}),
        ("<p>하나</p><p>두<b>울</b></p>", "하나\n두울", {"html": 6}),
        ("문을<br/>열다", "문을\n열다", {"html": 1}),
        ('<a href="http://a.kr/b" title="가">글</a>', "글", {"html": 2}),
        ("앞<!-- <b>주석\n --> 뒤", "앞 뒤", {"html": 1}),
        ("앞 <script>if (1<2) alert('가')</script> 뒤", "앞 뒤", {"html": 1}),
        ("앞 <STYLE>열린", "앞", {"html": 1}),
        ("주소는 https://naver.com/a?b=1 에 있다", "주소는 있다", {"url": 1}),
        ("보라(https://a.kr/b). 끝", "보라. 끝", {"url": 1}),
        ("www.naver.com에서 본", "본", {"url": 1}),
        ("이것은 slowly, walked 그래서 (she walked) 끝", "이것은 그래서 끝", {"foreign": 2}),
        ("“你好，世界。”\n그가", "그가", {"foreign": 1}),
        ("русский こんにちは カード 글 العربية", "글", {"foreign": 2}),
        ("가\u200b나\u202e다\ufeff \u200b라\x07", "가나다 라", {"control": 5}),
        (unicodedata.normalize("NFD", "각 나"), "각 나", {"nfc": 2}),
        ("시\n😀\n행", "시\n행", {"emoji": 1}),
        ("시😀\r\n행", "시\r\n행", {"emoji": 1}),
    ],
)
def test_what_goes(text: str, expected: str, removed: dict[str, int]) -> None:
    cleaned = clean(text)
    assert (cleaned.text, cleaned.removed) == (expected, removed)


def test_policies() -> None:
    assert clean("그는 walked 갔다", Policy(latin="keep")).text == "그는 walked 갔다"
    assert clean("crate 빈 walked 갔다", Policy(latin="acronyms")).text == "빈 갔다"
    assert clean("crate 를 walked 갔다", Policy(latin="acronyms")).text == "crate 를 갔다"
    assert clean("Crate 빈 walked 갔다", Policy(quoted=quoted_words("Walked?"))).text == "Crate 빈 walked 갔다"
    assert clean("漢字 은화(銀貨)", Policy(han="keep")).text == "漢字 은화(銀貨)"
    assert clean("은화(銀貨)를 은행(銀行)에 두었다.", Policy(han="drop")).text == "은화를 은행에 두었다."
    assert clean("漢字와 은화(銀貨)", Policy(han="drop")).text == "와 은화"
    assert clean("Hello 走了 나", Policy(latin="keep")).text == "Hello 나"
    text = "좋아 👨\u200d👩\u200d👧 🇰🇷 1️⃣ ♥️"
    assert clean(text, Policy(emoji="keep")).text == text


def test_too_much_removed_is_a_signal() -> None:
    mended = clean("그는 천천히 문을 열고 방으로 들어가 불을 켰다 😀")
    damaged = clean("그는 走了过去然后他打开了门 열었다")
    assert not mended.too_much_removed
    assert damaged.too_much_removed
    assert damaged.removed_share == pytest.approx(13 / 18, abs=0.06)
    assert clean("").removed_share == 0.0


def test_purity_is_that_of_the_cleaned_text() -> None:
    cleaned = clean("그는 走了过去 2번 열었다")
    assert cleaned.purity == 1.0
    assert cleaned.purity_original == pytest.approx(6 / 7)


def test_text_comes_out_before_the_end() -> None:
    scanner = Filter()
    text = "비가 그친 저녁, 골목 끝 국숫집에 불이 켜졌다. " * 5
    assert len(text) - len(scanner.feed(text)) < 20
    assert scanner.feed("```py\n" + "x = 1\n" * 1000) == "" or scanner.removed["code"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "<" * 20000,
        "<b" * 10000,
        "漢" * 20000,
        "가(" * 9000 + "漢",
        "http://" + "." * 20000,
        "e" + "\u0301\u0323" * 10000,
        "((😀))" * 3000,
        "a-" * 10000,
        "`" * 20000,
        "\n😀" * 10000,
    ],
    ids=range(10),
)
@pytest.mark.timeout(10)
def test_hostile_input_is_linear(text: str) -> None:
    assert len(clean(text).text) <= len(text)
