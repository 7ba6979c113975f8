"""How sampling settings affect Korean text: repetition, variety and purity of one model's answers.

    python bench/sampling.py --model DIR [--max-tokens 200] [--seeds 1] [--out FILE.json]

Every setting writes answers to the same requests of this file, without constraint or filter, so that the model's own
habits show. rep4: share of repeated 4-grams of characters within a text; distinct2: share of different pairs of
characters over all texts; looping: texts that end in a loop; purity: Hangul among the letters.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from mlx_loopai.config import GenerationOptions
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
SETTINGS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0},
    "T 0.7, top_p 0.9": {},
    "T 0.7, top_p 0.9, guard 0.8": {"repetition_guard": 0.8},
    "T 0.7, top_p 0.9, penalty 1.1": {"repetition_penalty": 1.1},
    "T 0.7, min_p 0.1": {"top_p": 1, "min_p": 0.1},
    "T 1, top_p 0.9": {"temperature": 1},
    "T 1, min_p 0.1": {"temperature": 1, "top_p": 1, "min_p": 0.1},
    "T 1, min_p 0.1, guard 0.8": {"temperature": 1, "top_p": 1, "min_p": 0.1, "repetition_guard": 0.8},
    "T 1, min_p 0.2, guard 0.8": {"temperature": 1, "top_p": 1, "min_p": 0.2, "repetition_guard": 0.8},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    session = open_session(options.model)
    found = {}
    for name in options.settings:
        found[name] = measured(session, SETTINGS[name], options.max_tokens, options.seeds)
        print(json.dumps({name: found[name]}, ensure_ascii=False), flush=True)  # noqa: T201
        if options.out:
            options.out.write_text(json.dumps(found, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def measured(session: Session, setting: dict[str, float], max_tokens: int, seeds: int) -> dict[str, float]:
    """The figures of one setting, over every prompt and seed."""
    started = time.perf_counter()
    requests = []
    for seed in range(seeds):
        options = GenerationOptions(scripts="off", filter=False, max_tokens=max_tokens, seed=seed, **setting)
        requests += [
            session.request(session.prompt_ids(single_prompt(prompt)), options, row=row)
            for row, prompt in enumerate(PROMPTS)
        ]
    texts = [answer.text.written for _, answer in write_answers(session.loaded, requests)]
    return {
        "texts": len(texts),
        "rep4": sum(rep_n(text, 4) for text in texts) / len(texts),
        "distinct2": distinct_n(texts, 2),
        "looping": sum(map(is_looping, texts)) / len(texts),
        "purity": sum(map(purity, texts)) / len(texts),
        "characters": sum(map(len, texts)) / len(texts),
        "seconds": time.perf_counter() - started,
    }


if __name__ == "__main__":
    main()
