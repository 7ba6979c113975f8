"""The whole way on a real Qwen: convert, generate, train, and the adapter in mlx-lm itself.

MLX_LOOPAI_REAL names a folder that holds `q05` (an MLX folder of Qwen2.5-Coder-0.5B-Instruct, made by
`mlx-loopai convert`) and the GGUF file that it came from. MLX_LOOPAI_REAL_TOKENIZER names the folder of Qwen2.5's
tokenizer.json (otherwise `qwen2.5-tokenizer` beside them), with which the one rebuilt from the GGUF file is compared.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from mlx_loopai.cli.main import main

REAL = os.environ.get("MLX_LOOPAI_REAL", "")
GGUF = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
QUESTION = "한국의 수도는 어디인가요?"

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not REAL, reason="MLX_LOOPAI_REAL names no folder with a real checkpoint"),
]

ROWS = [
    (
        "비 오는 날의 이야기를 써 주세요.",
        "처마 끝에서 빗방울이 하나둘 떨어졌다. 할머니는 마루에 앉아 젖은 마당을 오래 바라보았다. 우산을 쓴 아이가 대문을 열고 뛰어 들어왔다.",
    ),
    (
        "바닷가 마을의 아침을 그려 주세요.",
        "해가 뜨기도 전에 항구에는 불이 켜졌다. 어부들은 말없이 그물을 실었고, 갈매기가 그 위를 맴돌았다. 바람에서 소금 냄새가 났다.",
    ),
    (
        "오래된 책방에 대한 글을 써 주세요.",
        "골목 끝 책방에는 늘 먼지 냄새가 났다. 주인은 손님이 와도 고개를 들지 않았다. 나는 맨 아래 칸에서 내 이름이 적힌 책을 찾았다.",
    ),
    (
        "겨울밤의 짧은 이야기를 들려주세요.",
        "눈이 소리 없이 쌓이는 밤이었다. 기차는 오지 않았고 역무원은 난로에 장작을 더 넣었다. 우리는 서로의 고향 이야기를 나누었다.",
    ),
    (
        "이사 가는 날의 장면을 써 주세요.",
        "짐을 다 실은 트럭이 골목을 빠져나갔다. 동생은 빈 방에 서서 벽에 그은 키 자국을 만졌다. 어머니는 마지막으로 창문을 닫았다.",
    ),
    (
        "숲속에서 길을 잃은 아이 이야기를 써 주세요.",
        "아이는 같은 나무를 세 번째 지나쳤다. 해가 기울자 어디선가 종소리가 들렸다. 소리를 따라가니 작은 오두막에 불이 켜져 있었다.",
    ),
]


def document(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    """The JSON document of a command that must end well."""
    capfd.readouterr()
    status = main([*map(str, arguments), "--json"])
    printed = capfd.readouterr()
    assert status == 0, printed.err
    return json.loads(printed.out)


@pytest.fixture(scope="session")
def q05() -> Path:
    folder = Path(REAL) / "q05"
    if not (folder / "config.json").is_file():
        pytest.skip(f"{folder} is no model folder")
    return folder


@pytest.fixture(scope="session")
def trained(q05: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Five steps on real Korean rows: the run's folder and its summary."""
    folder = tmp_path_factory.mktemp("real")
    rows = folder / "rows.jsonl"
    lines = [json.dumps({"prompt": prompt, "completion": text}, ensure_ascii=False) for prompt, text in ROWS]
    rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = ["--set", "train.max_steps=5", "--set", "train.rows_per_step=2", "--set", "train.learning_rate=2e-4"]
    arguments = ["train", "--model", str(q05), "--data", str(rows), "--out", str(folder / "run"), *options, "--quiet"]
    assert main(arguments) == 0
    events = [json.loads(line) for line in (folder / "run" / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    return folder / "run", events[-1]


def test_gguf_becomes_a_model_that_knows_the_capital(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = Path(REAL) / GGUF
    if not source.is_file():
        pytest.skip(f"{source} is missing")
    out = tmp_path / "q05"
    made = document(capfd, "convert", source, "--dtype", "fp32", "--out", out)
    assert made["tensors"] > 250
    asked = ("generate", QUESTION, "--model", out, "--temperature", "0", "--max-tokens", "24")
    assert "서울" in document(capfd, *asked)["text"]


WORDS = {
    "korean": "하늘 바다에서 사람들은 이야기를 시작했다. 그리고, 왜? 1988년 ㅋㅋㅋ (정말로) 값이 없다! “그래요”",
    "english": "The quick brown fox don't isn't they've I'LL re-run 3.14 naïve café U.S.A. end—of; (word) 12,345",
    "chinese": "今天 天气 很好， 我们 去 公园。 為什麼 「是的」 二〇二四年 100元 你好！ 東京 ひらがな カタカナ",
    "code": 'def f(x): return x**2 # 주석 {\'a\': [1, 2]} != <div class="b"> \\n \t if(a&&b){c+=1;} fn<T>() => "\\u00e9" 0xFF',
    "emoji": "😀 👩\u200d👩\u200d👧 🇰🇷 ❤️ 👍🏽 ✨✨ ½ ① \u1112\u1161\u11ab e\u0301 \u00a0 \u3000 \u200b 🫠 <|im_start|> <|im_end|>",
}
RANGES = {"korean": (0xAC00, 0xD7A4), "english": (0x21, 0x7F), "chinese": (0x4E00, 0x9FA6), "code": (0x20, 0x7F)}


def lines(kind: str, count: int) -> list[str]:
    """Seeded lines of words of the kind, random characters of its script and odd white space."""
    rng = random.Random(kind)
    words, (low, high) = WORDS[kind].split(" "), RANGES.get(kind, (0x1F300, 0x1FAFF))
    found = []
    for _ in range(count):
        parts = [
            rng.choice(words)
            if rng.random() < 0.7
            else "".join(chr(rng.randrange(low, high)) for _ in range(rng.randint(1, 8)))
            for _ in range(rng.randint(3, 30))
        ]
        found.append(
            "".join(part + rng.choice([" ", " ", " ", "", "  ", "\n", "\t", "\r\n", "\n\n "]) for part in parts)
        )
    return found


def test_the_rebuilt_tokenizer_gives_the_real_ones_ids(tmp_path: Path) -> None:
    """10,000 lines, two thousand each of Korean, English, Chinese, code and emoji."""
    from tokenizers import Tokenizer

    from converters.readers import open_checkpoint
    from converters.tokenizer import choose_tokenizer

    source = Path(REAL) / GGUF
    folder = Path(os.environ.get("MLX_LOOPAI_REAL_TOKENIZER", Path(REAL) / "qwen2.5-tokenizer"))
    if not source.is_file() or not folder.is_dir():
        pytest.skip(f"{source} or {folder} is missing")
    choose_tokenizer(open_checkpoint(source), None, tmp_path)
    rebuilt, real = (Tokenizer.from_file(str(place / "tokenizer.json")) for place in (tmp_path, folder))
    for kind in WORDS:
        texts = lines(kind, 2000)
        for text, ours, theirs in zip(texts, rebuilt.encode_batch(texts), real.encode_batch(texts), strict=True):
            assert ours.ids == theirs.ids, text
            assert rebuilt.decode(ours.ids) == real.decode(theirs.ids), text


def test_it_answers(capfd: pytest.CaptureFixture[str], q05: Path) -> None:
    answer = document(capfd, "generate", QUESTION, "--model", q05, "--temperature", "0", "--max-tokens", "24")
    assert "서울" in answer["text"]


def test_five_steps_lower_the_loss(trained: tuple[Path, dict[str, Any]]) -> None:
    summary = trained[1]
    assert (summary["steps"], summary["skipped_steps"]) == (5, 0)
    assert summary["loss_last"] < summary["loss_first"]


def test_the_adapter_answers_in_generate(
    capfd: pytest.CaptureFixture[str], q05: Path, trained: tuple[Path, dict[str, Any]]
) -> None:
    asked = ("generate", QUESTION, "--model", q05, "--temperature", "0", "--max-tokens", "24")
    answer = document(capfd, *asked, "--adapter", trained[0] / "adapter")
    assert answer["generated_tokens"] > 0


def test_mlx_lm_loads_the_adapter_and_computes_the_same(q05: Path, trained: tuple[Path, dict[str, Any]]) -> None:
    import mlx.core as mx
    from mlx_lm.utils import load

    from mlx_loopai.generation.session import open_session

    adapter = trained[0] / "adapter"
    ours = open_session(str(q05), adapter, dtype="fp32").loaded
    ids = mx.array([ours.tokenizer.encode(QUESTION)])
    expected = ours.model(ids)
    theirs, _ = load(str(q05), adapter_path=str(adapter))
    base, _ = load(str(q05))
    assert mx.max(mx.abs(theirs(ids) - expected)).item() < 1e-3
    assert mx.max(mx.abs(base(ids) - expected)).item() > 1e-2
