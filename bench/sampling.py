"""How sampling settings affect Korean text: repetition, variety, purity, and a judge's choice, of one model's answers.

    python bench/sampling.py --model DIR [--max-tokens 200] [--seeds 1] [--out FILE.json]
        [--judge-url URL --judge-model NAME [--judged SETTING...] [--judgements FILE.jsonl]]

Every setting writes answers to the same requests of this file, without constraint or filter, so that the model's own
habits show. rep4: share of repeated 4-grams of characters within a text; distinct2: share of different pairs of
characters over all texts; looping: texts that end in a loop; purity: Hangul among the letters.

A judge compares each setting's answers with those of the default, pair by pair, in both orders; an answer wins only
when it is chosen in both, all else is a tie. As a check of the judge it also compares the default's answers with the
default's answers to other requests, which a judge that reads should always prefer less. A small judge may be served by
the program itself; the form of its answers is then forced:

    mlx-loopai serve --model DIR --port 8089 --scripts off --repetition-guard 0 --time-limit 3600
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlx_loopai.config import GenerationOptions
from mlx_loopai.evaluation.endpoint import Endpoint
from mlx_loopai.evaluation.pairwise import Judgements, judge_pairs
from mlx_loopai.evaluation.rubric import NAMES, OVERALL, Pair, answer_form
from mlx_loopai.evaluation.text_metrics import Generated
from mlx_loopai.generation.answers import write_answers
from mlx_loopai.generation.prompts import single_prompt
from mlx_loopai.generation.session import Session, open_session
from mlx_loopai.text.measures import distinct_n, is_looping, purity, rep_n

PROMPTS = """
등대지기의 하루를 써 주세요.
비 오는 날 골목 국숫집 이야기를 써 주세요.
할머니의 반짇고리에서 나온 편지 이야기를 써 주세요.
가을 산에 대한 시를 써 주세요.
처음 학교에 가는 아이의 마음을 써 주세요.
고양이가 주인을 소개하는 글을 써 주세요.
기차에서 만난 두 사람의 대화를 써 주세요.
바다에 사는 용의 옛날이야기를 들려주세요.
친구에게 사과하는 편지를 써 주세요.
눈 오는 밤의 풍경을 자세히 써 주세요.
시골 버스 기사 아저씨 이야기를 써 주세요.
잃어버린 우산을 찾는 이야기를 써 주세요.
김치찌개를 끓이는 방법을 알려 주세요.
한글을 만든 까닭을 설명해 주세요.
봄나물 다섯 가지를 소개해 주세요.
아침에 일찍 일어나는 방법을 알려 주세요.
""".strip().splitlines()
DEFAULT = "T 0.7, top_p 0.9, guard 0.8"
SETTINGS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0},
    "T 0.7, top_p 0.9": {},
    DEFAULT: {"repetition_guard": 0.8},
    "T 0.7, top_p 0.9, penalty 1.1": {"repetition_penalty": 1.1},
    "T 0.7, min_p 0.1": {"top_p": 1, "min_p": 0.1},
    "T 1, top_p 0.9": {"temperature": 1},
    "T 1, min_p 0.1": {"temperature": 1, "top_p": 1, "min_p": 0.1},
    "T 1, min_p 0.1, guard 0.8": {"temperature": 1, "top_p": 1, "min_p": 0.1, "repetition_guard": 0.8},
    "T 1, min_p 0.2, guard 0.8": {"temperature": 1, "top_p": 1, "min_p": 0.2, "repetition_guard": 0.8},
}
# The default's answers against its own answers to other requests: what the judge is worth.
CHECK = "answers to other requests"
_SECONDS_OF_A_JUDGEMENT, _TOKENS_OF_A_JUDGEMENT = 3600, 128
_ASKED_AT_ONCE = 8


def main() -> None:
    options = _options()
    session = open_session(options.model)
    judge = _judge(options)
    found: dict[str, dict[str, Any]] = {}
    written: dict[str, list[Generated]] = {}

    def tell(name: str, new: dict[str, Any]) -> None:
        found[name] = found.get(name, {}) | new
        print(json.dumps({name: found[name]}, ensure_ascii=False), flush=True)  # noqa: T201
        if options.out:
            options.out.write_text(json.dumps(found, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    for name in options.settings:
        started = time.perf_counter()
        written[name] = answers(session, SETTINGS[name], options.max_tokens, options.seeds)
        tell(name, figures([one.text for one in written[name]]) | {"seconds": time.perf_counter() - started})
    if judge is None:
        return
    kept = Judgements(options.judgements, judge.model)
    usual = written[DEFAULT]
    compared = {name: texts for name, texts in written.items() if name != DEFAULT and name in options.judged}
    for name, texts in {CHECK: of_other_requests(usual), **compared}.items():
        tell(name, {"judge": judged(texts, usual, judge, kept)})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--judge-url")
    parser.add_argument("--judge-model")
    parser.add_argument("--judged", nargs="*", default=list(SETTINGS), help="settings that the judge compares")
    parser.add_argument("--judgements", type=Path, default=Path("sampling.judgements.jsonl"))
    options = parser.parse_args()
    if bool(options.judge_url) != bool(options.judge_model):
        parser.error("a judge needs --judge-url and --judge-model")
    if options.judge_url and DEFAULT not in options.settings:
        parser.error(f"a judge compares with {DEFAULT!r}, which must be among --settings")
    return options


def _judge(options: argparse.Namespace) -> Endpoint | None:
    if not options.judge_url:
        return None
    fields = {"response_format": answer_form(), "max_tokens": _TOKENS_OF_A_JUDGEMENT}
    return Endpoint(options.judge_url, options.judge_model, timeout_s=_SECONDS_OF_A_JUDGEMENT, fields=fields)


def answers(session: Session, setting: dict[str, float], max_tokens: int, seeds: int) -> list[Generated]:
    """The answers with one setting, to every request with every seed."""
    requests = []
    for seed in range(seeds):
        # The guard is on by default; here only where the setting says so.
        chosen = {"repetition_guard": 0.0, **setting}
        options = GenerationOptions(scripts="off", filter=False, max_tokens=max_tokens, seed=seed, **chosen)
        requests += [
            session.request(session.prompt_ids(single_prompt(prompt)), options, row=row)
            for row, prompt in enumerate(PROMPTS)
        ]
    texts = dict(write_answers(session.loaded, requests))
    return [Generated(texts[place].text.written, PROMPTS[place % len(PROMPTS)]) for place in range(len(requests))]


def figures(texts: Sequence[str]) -> dict[str, float]:
    """What is measured of the texts of one setting."""
    return {
        "texts": len(texts),
        "rep4": sum(rep_n(text, 4) for text in texts) / len(texts),
        "distinct2": distinct_n(texts, 2),
        "looping": sum(map(is_looping, texts)) / len(texts),
        "purity": sum(map(purity, texts)) / len(texts),
        "characters": sum(map(len, texts)) / len(texts),
    }


def of_other_requests(texts: Sequence[Generated]) -> list[Generated]:
    """The same texts, each as the answer to the request before its own."""
    return [Generated(text.text, asked.prompt) for text, asked in zip([*texts[1:], *texts[:1]], texts, strict=True)]


def judged(
    texts: Sequence[Generated], others: Sequence[Generated], judge: Endpoint, kept: Judgements
) -> dict[str, Any]:
    """How often `texts` win against `others`: a tie counts half; and how far the judge agrees with itself."""
    pairs = [Pair(one, other) for one, other in zip(texts, others, strict=True)]
    # A server answers several questions at once in less time. The judgements are kept, and then read together.
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as asking:
        list(asking.map(lambda pair: judge_pairs([pair], judge.chat, kept), pairs))
    found = judge_pairs(pairs, judge.chat, kept)
    overall = found["criteria"][OVERALL]
    rates = {name: found["criteria"][name]["win_rate"] for name in NAMES}
    return {**overall, "win_rates": rates, **{name: found[name] for name in ("agreement", "first_share", "unreadable")}}


if __name__ == "__main__":
    main()
